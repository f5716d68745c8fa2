//! A step has no generics.

use keepstep::{Workflow, step};

#[step]
async fn of_type<T: Clone>(value: T) -> T {
    value
}

#[step]
async fn of_lifetime<'a>(text: &'a str) -> String {
    text.into()
}

#[step]
async fn of_const<const N: usize>(values: [u8; N]) -> usize {
    values.len()
}

#[step]
async fn with_where(value: u8) -> u8
where
    u8: Copy,
{
    value
}

fn main() {
    let _: Workflow<u64> = of_type(1u64);
    let _: Workflow<String> = of_lifetime("text");
    let _: Workflow<u8> = with_where(1);
}
