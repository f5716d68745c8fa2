#![no_main]
keepstep_fuzz::fuzz!("journal_entry");
