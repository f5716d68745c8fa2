#![no_main]
keepstep_fuzz::fuzz!("marker");
