#![no_main]
keepstep_fuzz::fuzz!("arguments");
