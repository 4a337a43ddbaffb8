//! Compiles the init and embeds it.
fn main() {}
