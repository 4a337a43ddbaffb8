//! See `eif_fuzz::eif`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = eif_fuzz::eif(bytes);
});
