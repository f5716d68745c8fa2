# What CI runs, as far as it changes nothing.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --all-features -- -D warnings
    cargo test --workspace --all-features
    tests/mutations/run --check
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps

# Mends what can be mended by itself.
fix:
    cargo clippy --workspace --all-targets --all-features --fix --allow-dirty --allow-staged
    cargo fmt --all

# keepstep beside its floors; `just bench chain` for one of them.
bench filter="":
    cargo bench --bench speed -- {{filter}}

# A decoder against whatever bytes: `just fuzz fold`. Works on stable Rust, too.
fuzz target *arguments="-max_len=4096 -max_total_time=300":
    RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none {{target}} -- {{arguments}}
