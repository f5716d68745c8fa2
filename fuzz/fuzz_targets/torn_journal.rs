#![no_main]
keepstep_fuzz::fuzz!("torn_journal");
