#![no_main]
keepstep_fuzz::fuzz!("blob_address");
