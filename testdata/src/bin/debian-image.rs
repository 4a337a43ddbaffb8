//! Makes the Debian images, or finds them in the cache, and prints where they are.

#[expect(clippy::print_stdout, reason = "the paths are this program's output")]
fn main() {
    for arch in ["x86_64", "aarch64"] {
        println!("{}", eif_testdata::debian_image(&eif_testdata::cache_dir(), arch).display());
    }
}
