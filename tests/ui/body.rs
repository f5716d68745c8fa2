//! Mistakes in a body are shown where they are, and the body does not see what the macro adds.

use keepstep::step;

#[step]
async fn mismatch(n: u64) -> String {
    n
}

#[step]
fn mismatch_in_result(n: u64) -> Result<String, std::io::Error> {
    Ok(n)
}

#[step]
async fn sees_no_glue() {
    let _ = (input, arg0, __KEEPSTEP_STEP, __keepstep_call);
}

#[step]
async fn unfinished(n: u64) -> u64 {
    n +
}

fn main() {}
