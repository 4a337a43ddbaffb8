//! See `eif_fuzz::manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = eif_fuzz::manifest(bytes);
});
