//! See `eif_fuzz::attest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = eif_fuzz::attest(bytes);
});
