#![no_main]
keepstep_fuzz::fuzz!("remote_step");
