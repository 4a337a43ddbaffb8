//! See `eif_fuzz::newc`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = eif_fuzz::newc(bytes);
});
