//! Makes the Debian image, or finds it in the cache, and prints where it is.

#[expect(clippy::print_stdout, reason = "the path is this program's output")]
fn main() {
    println!("{}", eif_testdata::debian_image(&eif_testdata::cache_dir()).display());
}
