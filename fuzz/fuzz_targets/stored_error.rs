#![no_main]
keepstep_fuzz::fuzz!("stored_error");
