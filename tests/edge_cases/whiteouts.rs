//! Whiteouts and opaque directories: they reach lower layers only, wherever in a layer they stand.

use eif_testdata::{Entry, Layer, layers};

use crate::world::{gives, layer, refuses, warns};

/// The lower layer, then the upper one in both orders: the result must be the same.
fn in_any_order(lower: &[&str], upper: &[&str], tree: &[&str]) {
    for turn in 0..upper.len() {
        let mut lines = lower.to_vec();
        lines.push("--");
        lines.extend(upper.iter().cycle().skip(turn).take(upper.len()));
        gives(eif_testdata::parse_layers(&lines), tree);
    }
}

#[test]
fn before_and_after_the_new_entry() {
    in_any_order(&["f 0644 0:0 x old"], &["w x", "f 0600 1:1 x new"], &["f 0600 1:1 x new"]);
    in_any_order(&["f 0644 0:0 x old"], &["w x"], &[]);
}

#[test]
fn a_directory_removed_and_made_again() {
    let lower = ["d 0700 5:5 d", "f 0644 0:0 d/old 1"];
    in_any_order(&lower, &["w d", "d 0711 1:1 d/", "f 0644 0:0 d/new 2"], &["d 0711 1:1 d", "f 0644 0:0 d/new 2"]);
    in_any_order(&lower, &["w d", "f 0644 0:0 d/new 2"], &["d 0755 0:0 d", "f 0644 0:0 d/new 2"]);
}

#[test]
fn a_file_removed_and_a_directory_implied_in_its_place() {
    let tree = ["d 0755 0:0 x", "f 0600 1:1 x/y new"];
    in_any_order(&["f 0644 0:0 x old"], &["f 0600 1:1 x/y new", "w x"], &tree);
}

#[test]
fn opaque_directories() {
    let lower = ["d 0700 5:5 d", "f 0644 0:0 d/old 1", "f 0644 0:0 d/s/old 1", "f 0644 0:0 e 1"];
    let tree = ["d 0700 5:5 d", "f 0644 0:0 d/new 2", "d 0755 0:0 d/s", "f 0644 0:0 d/s/new 3", "f 0644 0:0 e 1"];
    in_any_order(&lower, &["f 0644 0:0 d/new 2", "o d", "f 0644 0:0 d/s/new 3"], &tree);
    in_any_order(&lower, &["o d", "d 0711 1:1 d/"], &["d 0711 1:1 d", "f 0644 0:0 e 1"]);
}

#[test]
fn an_opaque_root_hides_all_that_is_lower() {
    in_any_order(
        &["d 0700 3:3 .", "f 0644 0:0 a/b 1"],
        &["o .", "f 0644 0:0 new 2"],
        &["d 0700 3:3 .", "f 0644 0:0 new 2"],
    );
}

#[test]
fn an_opaque_mark_where_no_directory_was() {
    in_any_order(&["f 0644 0:0 d 1"], &["o d", "d 0711 1:1 d/"], &["d 0711 1:1 d"]);
    in_any_order(&["l 0777 0:0 d -> nowhere"], &["w d", "o d", "d 0711 1:1 d/"], &["d 0711 1:1 d"]);
    in_any_order(&[], &["o d"], &[]);
    in_any_order(&[], &["o d", "f 0644 0:0 d/x 1"], &["d 0755 0:0 d", "f 0644 0:0 d/x 1"]);
}

#[test]
fn only_the_very_name_is_hidden() {
    in_any_order(
        &["f 0644 0:0 a 1", "f 0644 0:0 a-b 2", "f 0644 0:0 ab/c 3"],
        &["w a"],
        &["f 0644 0:0 a-b 2", "d 0755 0:0 ab", "f 0644 0:0 ab/c 3"],
    );
    in_any_order(&["f 0644 0:0 a 1"], &["w b", "w c/d", "w a/x"], &["f 0644 0:0 a 1"]);
    // The link goes, its target stays.
    in_any_order(&["f 0644 0:0 t/a 1", "l 0777 0:0 s -> t"], &["w s"], &["d 0755 0:0 t", "f 0644 0:0 t/a 1"]);
}

#[test]
fn a_whiteout_below_a_symlink_reaches_the_real_directory() {
    let layers = layers! { "f 0644 0:0 t/a 1", "l 0777 0:0 s -> t", "--", "w s/a" };
    warns(layers, "E-symlink-parent", &["l 0777 0:0 s -> t", "d 0755 0:0 t"]);
    refuses(layers! { "l 0777 0:0 s -> s", "--", "w s/a" }, "E-symlink-loop", "s/");
}

#[test]
fn whiteouts_without_a_name() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh...", ".wh.a/b", "d/.wh.a/b/c"] {
        refuses(layer([Entry::dir("d"), Entry::file(name, "")]), "E-bad-whiteout", name);
    }
    in_any_order(&["f 0644 0:0 ... 1"], &["w ..."], &[]);
}

#[test]
fn the_bookkeeping_of_aufs() {
    for name in [".wh..wh.aufs", ".wh..wh.orph/", ".wh..wh.plnk/", ".wh..wh.plnk/403.12", "d/.wh..wh.other"] {
        gives(layer([Entry::file("a", "1"), Entry::file(name, "x")]), &["f 0644 0:0 a 1"]);
    }
    refuses(layer([Entry::hardlink("a", ".wh..wh.plnk/403.12")]), "E-unsupported-entry", "AUFS");
}

/// Its name makes a whiteout, not its type; a body is passed over.
#[test]
fn the_type_of_a_whiteout() {
    let lower = || Layer::from_iter([Entry::file("a", "1")]);
    for entry in [
        Entry::file(".wh.a", "a body of some length"),
        Entry::dir(".wh.a/"),
        Entry::symlink(".wh.a", "x"),
        Entry::char_device(".wh.a", 0, 0),
        Entry::hardlink(".wh.a", "nothing"),
        Entry::fifo(".wh.a"),
    ] {
        gives(vec![lower(), Layer::from_iter([entry, Entry::file("b", "2")])], &["f 0644 0:0 b 2"]);
    }
}
