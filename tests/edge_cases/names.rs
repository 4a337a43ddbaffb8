//! Names, paths, types and metadata of entries.

use eif_testdata::{Entry, Layer, layers};

use crate::world::{Ask, gives, layer, refuses, warns};

#[test]
fn dots_and_slashes() {
    for name in ["../evil", "a/../../evil", "/../evil", "./../evil"] {
        refuses(layer([Entry::file(name, "")]), "E-path-traversal", name);
    }
    for name in ["/a/b", "a//b", "./a/./b", "a/x/../b", "//a/b"] {
        gives(layer([Entry::file(name, "1")]), &["d 0755 0:0 a", "f 0644 0:0 a/b 1"]);
    }
}

#[test]
fn the_root() {
    gives(layers! { "d 1700 7:8 ./" }, &["d 1700 7:8 ."]);
    gives(layers! { "d 0555 0:0 /", "--", "d 0700 1:1 ./" }, &["d 0700 1:1 ."]);
    gives(layers! { "f 0644 0:0 a 1" }, &["f 0644 0:0 a 1"]);
    for root in [Entry::symlink("./", "etc"), Entry::file("/", "x"), Entry::fifo("."), Entry::file("a/..", "")] {
        refuses(layer([root]), "E-root-not-dir", "must be a directory");
    }
}

#[test]
fn parents_that_no_entry_describes() {
    gives(layers! { "f 0600 5:5 a/b/c 1" }, &["d 0755 0:0 a", "d 0755 0:0 a/b", "f 0600 5:5 a/b/c 1"]);
    gives(layers! { "f 0644 0:0 a/b 1", "d 0700 3:4 a" }, &["d 0700 3:4 a", "f 0644 0:0 a/b 1"]);
    let lower = &["d 0700 3:4 a", "f 0644 0:0 a/b 1", "f 0644 0:0 a/c 2"];
    gives(layers! { "d 0700 3:4 a", "f 0644 0:0 a/b 1", "--", "f 0644 0:0 a/c 2" }, lower);
}

/// Every type over every other: the upper one stays, and nothing is written through what it replaces.
#[test]
fn a_type_replaced_by_another() {
    let kinds = [
        ("f 0600 1:1 x new", "f 0600 1:1 x new"),
        ("l 0777 1:1 x -> y", "l 0777 1:1 x -> y"),
        ("p 0600 1:1 x", "p 0600 1:1 x"),
        ("c 0600 1:1 x 1:3", "c 0600 1:1 x 1:3"),
        ("b 0600 1:1 x 8:0", "b 0600 1:1 x 8:0"),
    ];
    for lower in ["d 0755 0:0 x/", "f 0644 0:0 x old", "l 0777 0:0 x -> y", "p 0644 0:0 x", "c 0644 0:0 x 5:1"] {
        for (upper, result) in kinds {
            gives(layers! { "f 0644 0:0 y keep", lower, "--", upper }, &[result, "f 0644 0:0 y keep"]);
        }
    }
    gives(layers! { "f 0644 0:0 x old", "--", "d 0700 1:1 x" }, &["d 0700 1:1 x"]);
    gives(layers! { "d 0755 0:0 x/a", "f 0644 0:0 x/b 1", "--", "f 0644 0:0 x 2" }, &["f 0644 0:0 x 2"]);
    gives(layers! { "f 0644 0:0 x/b 1", "--", "d 0711 2:2 x" }, &["d 0711 2:2 x", "f 0644 0:0 x/b 1"]);
}

#[test]
fn a_directory_over_a_symlink_to_a_directory() {
    let usrmerge =
        layers! { "d 0755 0:0 usr/lib/", "l 0777 0:0 lib -> usr/lib", "--", "d 0755 0:0 lib/", "f 0644 0:0 lib/a 1" };
    let tree = ["d 0755 0:0 lib", "f 0644 0:0 lib/a 1", "d 0755 0:0 usr", "d 0755 0:0 usr/lib"];
    warns(usrmerge, "W-dir-over-symlink", &tree);
}

#[test]
fn an_entry_below_a_symlink() {
    let tree = |target: &str| {
        let link = format!("l 0777 0:0 lib -> {target}");
        vec![link, "d 0755 0:0 usr".into(), "d 0755 0:0 usr/lib".into(), "f 0644 0:0 usr/lib/a 1".into()]
    };
    for target in ["usr/lib", "/usr/lib", "../../usr/lib", "./usr/../usr/lib/"] {
        let line = format!("l 0777 0:0 lib -> {target}");
        let layers = layers! { "d 0755 0:0 usr/lib/", line.as_str(), "--", "f 0644 0:0 lib/a 1" };
        warns(layers, "E-symlink-parent", &tree(target).iter().map(String::as_str).collect::<Vec<_>>());
    }
    // A dangling one leads to a directory that is made inside the root.
    let dangling = layers! { "l 0777 0:0 a -> /b/c", "f 0644 0:0 a/x 1" };
    warns(
        dangling,
        "E-symlink-parent",
        &["l 0777 0:0 a -> /b/c", "d 0755 0:0 b", "d 0755 0:0 b/c", "f 0644 0:0 b/c/x 1"],
    );
}

#[test]
fn one_warning_a_symlink() {
    let unpacked =
        Ask::default().layers(layers! { "d 0755 0:0 b", "l 0777 0:0 a -> b", "f 0644 0:0 a/x 1", "f 0644 0:0 a/y 2" });
    let warnings = unpacked.unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].message.contains("layer 1/1") && warnings[0].message.contains("\"a\""), "{warnings:?}");
}

#[test]
fn the_text_of_a_symlink_is_kept() {
    for target in ["/etc/passwd", "../../../etc/passwd", "nowhere", ".", "//x//", "a\\xff\\x20\\n"] {
        let text = eif_testdata::escape(&eif_testdata::unescape(target));
        let line = format!("l 0777 0:0 a -> {target}");
        gives(layers! { line.as_str() }, &[&format!("l 0777 0:0 a -> {text}")]);
    }
}

#[test]
fn parents_that_cannot_be() {
    refuses(layers! { "l 0777 0:0 a -> b", "l 0777 0:0 b -> a", "f 0644 0:0 a/x 1" }, "E-symlink-loop", "a/x");
    refuses(layers! { "l 0777 0:0 a -> a", "--", "f 0644 0:0 a/x 1" }, "E-symlink-loop", "layer 2/2");
    for parent in ["f 0644 0:0 a 1", "p 0644 0:0 a", "c 0600 0:0 a 1:3"] {
        refuses(layers! { parent, "f 0644 0:0 a/x 1" }, "E-parent-not-dir", "a/x");
    }
    refuses(layers! { "f 0644 0:0 f 1", "l 0777 0:0 a -> f", "f 0644 0:0 a/x 1" }, "E-parent-not-dir", "a/x");
    // Forty links are followed, as by the kernel, and not one more.
    let chain = |length: usize| {
        let links = (0..length).map(|n| Entry::symlink(format!("l{n}"), format!("l{}", n + 1)));
        layer(std::iter::once(Entry::dir(format!("l{length}"))).chain(links).chain([Entry::file("l0/x", "1")]))
    };
    assert!(Ask::default().layers(chain(40)).is_ok());
    refuses(chain(41), "E-symlink-loop", "l0/x");
}

#[test]
fn the_same_name_twice_in_a_layer() {
    warns(layers! { "f 0644 0:0 a 1", "f 0600 1:1 a 2" }, "E-duplicate", &["f 0600 1:1 a 2"]);
    warns(layers! { "f 0644 0:0 a 1", "f 0600 1:1 ./a 2" }, "E-duplicate", &["f 0600 1:1 a 2"]);
    warns(layers! { "d 0755 0:0 a", "d 0700 1:1 a/" }, "E-duplicate", &["d 0700 1:1 a"]);
    let linked = layers! { "f 0644 0:0 a 1", "h b => a", "f 0600 0:0 a 2" };
    warns(linked, "E-duplicate", &["f 0600 0:0 a 2", "f 0644 0:0 b 1"]);
}

#[test]
fn names_are_bytes() {
    gives(layers! { r"f 0644 0:0 \xff\n\x01\x7f\x5c\x22 1" }, &[r#"f 0644 0:0 \xff\x0a\x01\x7f\x5c" 1"#]);
    refuses(layers! { r"f 0644 0:0 \n\x1b/../../x 1" }, "E-path-traversal", r"\x0a\x1b/../../x");
}

#[test]
fn every_way_to_write_a_long_name() {
    let (long, deep) = ("n".repeat(255), vec!["d".repeat(99); 3].join("/"));
    let tail = |tree: Vec<String>| tree.last().unwrap().clone();
    for entry in [Entry::file(&long, "1"), Entry::file("short", "1").pax("path", &long)] {
        assert_eq!(tail(Ask::default().layers(layer([entry])).unwrap().tree), format!("f 0644 0:0 {long} 1"));
    }
    for link in [Entry::symlink("a", &deep), Entry::symlink("a", "short").pax("linkpath", &deep)] {
        assert_eq!(tail(Ask::default().layers(layer([link])).unwrap().tree), format!("l 0777 0:0 a -> {deep}"));
    }
    let prefixed = Entry::file("base", "1").header_bytes(345, "the/prefix");
    gives(layer([prefixed.clone()]), &["d 0755 0:0 the", "d 0755 0:0 the/prefix", "f 0644 0:0 the/prefix/base 1"]);
    // GNU's header has other things in the prefix's place.
    gives(layer([prefixed.gnu()]), &["f 0644 0:0 base 1"]);
    // No NUL behind 100 bytes.
    let full = "f".repeat(100);
    gives(layer([Entry::file(&full, "1")]), &[&format!("f 0644 0:0 {full} 1")]);
    // hdrcharset says how to read a name; bytes are bytes.
    gives(layer([Entry::file("a", "1").pax("hdrcharset", "BINARY").pax("path", b"b\xff")]), &[r"f 0644 0:0 b\xff 1"]);
    // An empty record, or an empty long name, says nothing.
    gives(layer([Entry::file("a", "1").pax("path", "")]), &["f 0644 0:0 a 1"]);
    let empty = Layer::new().entry(Entry::new(b'L', "././@LongLink").body("\0")).entry(Entry::file("a", "1"));
    gives(vec![empty], &["f 0644 0:0 a 1"]);
}

#[test]
fn what_the_kernel_would_drop() {
    let (component, path) = ("n".repeat(256), vec!["d".repeat(200); 21].join("/"));
    refuses(layer([Entry::file(&component, "")]), "E-name-too-long", "255");
    refuses(layer([Entry::file(&path, "")]), "E-name-too-long", "4088");
    let longest = &path[..4088];
    assert!(Ask::default().layers(layer([Entry::file(longest, "")])).is_ok());
    refuses(layer([Entry::file(&path[..4089], "")]), "E-name-too-long", "4088");
    let link = "t".repeat(4096);
    assert!(Ask::default().layers(layer([Entry::symlink("a", &link[..4095])])).is_ok());
    refuses(layer([Entry::symlink("a", &link)]), "E-symlink-too-long", "4096");
    refuses(layer([Entry::symlink("a", "")]), "E-symlink-target-empty", "\"a\"");
    // Through a symlink a path can get longer than its entry's name.
    let below = format!("l/{}/{}", "e".repeat(200), "x".repeat(200));
    let through = layer([Entry::dir(&path[..4000]), Entry::symlink("l", &path[..4000]), Entry::file(below, "")]);
    refuses(through, "E-name-too-long", "4088");
}

#[test]
fn deep_and_wide_trees() {
    let deep = vec!["d"; 1200].join("/");
    assert_eq!(Ask::default().layers(layer([Entry::file(&deep, "")])).unwrap().tree.len(), 1200);
    refuses(layer([Entry::file(vec!["d"; 2049].join("/"), "")]), "E-too-deep", "2049");
    let wide = (0..5000).map(|n| Entry::file(format!("{}/{n}", n % 50), ""));
    assert_eq!(Ask::default().layers(layer(wide)).unwrap().tree.len(), 5050);
}

#[test]
fn devices_and_pipes() {
    gives(layers! { "c 0666 0:0 c 4095:1048575" }, &["c 0666 0:0 c 4095:1048575"]);
    gives(layers! { "b 0660 0:6 b 259:0", "p 0622 3:3 p" }, &["b 0660 0:6 b 259:0", "p 0622 3:3 p"]);
    refuses(layers! { "c 0666 0:0 c 4096:0" }, "E-device-range", "4096");
    refuses(layers! { "b 0666 0:0 b 0:1048576" }, "E-device-range", "1048576");
    refuses(layer([Entry::char_device("c", 1 << 40, 0)]), "E-device-range", "1099511627776");
}

#[test]
fn old_headers() {
    gives(layer([Entry::new(0, "dir/").v7().mode(0o040_755)]), &["d 0755 0:0 dir"]);
    gives(layer([Entry::new(0, "a").body("1").v7()]), &["f 0644 0:0 a 1"]);
    gives(layer([Entry::file("a", "1").mode(0o106_755)]), &["f 6755 0:0 a 1"]);
    gives(layer([Entry::symlink("a", "b").mode(0o600)]), &["l 0777 0:0 a -> b"]);
    // Numbers between blanks, as old tars write them.
    gives(
        layer([Entry::file("a", "1").header_bytes(100, b"   640 \0").header_bytes(108, b"    17 \0")]),
        &["f 0640 15:0 a 1"],
    );
}

#[test]
fn global_headers() {
    let remark = Entry::pax_global(&[("comment", "made by git archive"), ("VENDOR.x", "1")]);
    gives(layer([remark, Entry::file("a", "1")]), &["f 0644 0:0 a 1"]);
    for key in ["path", "size", "uid", "mtime", "SCHILY.xattr.user.x"] {
        refuses(layer([Entry::pax_global(&[(key, "1")])]), "E-unsupported-entry", key);
    }
}

#[test]
fn types_that_layers_do_not_have() {
    for flag in [b'7', b'V', b'M', b'D', b'S', b'A', b'Z', b'8', 0xff] {
        refuses(layer([Entry::new(flag, "odd")]), "E-unsupported-entry", "odd");
    }
}

/// In the ramdisk all of it lies below `rootfs/`, so nothing of the image can be taken for something of ours.
#[test]
fn reserved_names() {
    let tree = [
        "f 0644 0:0 TRAILER!!! 1",
        "f 0644 0:0 cmd 2",
        "f 0644 0:0 env 3",
        "f 0644 0:0 init 4",
        "f 0644 0:0 process 5",
    ];
    gives(
        vec![
            tree.iter().fold(Layer::new(), |all, line| all.entry(layers!(*line)[0].entries().next().unwrap().clone())),
        ],
        &tree,
    );
}

#[test]
fn owners() {
    for id in [2_097_151, 2_097_152, 4_294_967_294_i128] {
        gives(layer([Entry::file("a", "").owner(id, id)]), &[&format!("f 0644 {id}:{id} a ")]);
        let pax = Entry::file("a", "").pax("uid", id.to_string()).pax("gid", id.to_string());
        gives(layer([pax]), &[&format!("f 0644 {id}:{id} a ")]);
    }
    for id in [4_294_967_295_i128, 4_294_967_296, -1, 1 << 50] {
        refuses(layer([Entry::file("a", "").owner(id, 0)]), "E-uid-range", &id.to_string());
        refuses(layer([Entry::file("a", "").owner(0, id)]), "E-uid-range", &id.to_string());
        refuses(layer([Entry::file("a", "").pax("gid", id.to_string())]), "E-uid-range", &id.to_string());
    }
    refuses(layer([Entry::file("a", "").pax("uid", "root")]), "E-bad-tar", "uid");
}

#[test]
fn modification_times() {
    let time = |entry: Entry| Ask::default().layers(layer([entry])).unwrap().times[0];
    for (seconds, whole) in [(7, 7), (-1, -1), (1 << 40, 1 << 40), (-(1 << 40), -(1 << 40))] {
        assert_eq!(time(Entry::file("a", "").mtime(seconds)), whole);
    }
    for (text, whole) in [("1.9", 1), ("-1.5", -2), ("-1", -1), ("4294967296.5", 1 << 32), ("0.000000001", 0)] {
        assert_eq!(time(Entry::file("a", "").mtime(99).pax("mtime", text)), whole, "{text}");
    }
    refuses(layer([Entry::file("a", "").pax("mtime", "yesterday")]), "E-bad-tar", "mtime");
    // The metadata of the later entry count, time included.
    let twice = vec![layer([Entry::dir("a").mtime(1)]).remove(0), layer([Entry::dir("a").mtime(2)]).remove(0)];
    assert_eq!(Ask::default().layers(twice).unwrap().times, [2]);
}

#[test]
fn extended_attributes() {
    let schily = Entry::file("a", "").pax("SCHILY.xattr.user.b", "2").pax("SCHILY.xattr.user.a", "x=\n\0");
    gives(layer([schily]), &[r"f 0644 0:0 a  user.a=x=\x0a\x00 user.b=2"]);
    let both = Entry::dir("a").pax("LIBARCHIVE.xattr.user.%41%3D", "aGk=").pax("LIBARCHIVE.creationtime", "1");
    gives(layer([both]), &["d 0755 0:0 a user.A==hi"]);
    // The last record of a name counts, as everywhere in PAX.
    let twice = Entry::file("a", "").pax("SCHILY.xattr.user.a", "2").pax("SCHILY.xattr.user.a", "1");
    gives(layer([twice]), &["f 0644 0:0 a  user.a=1"]);
    refuses(layer([Entry::file("a", "").pax("LIBARCHIVE.xattr.user.a", "?")]), "E-bad-tar", "LIBARCHIVE");
    // What Linux could not set, and what would be taken for another record of the ramdisk's list.
    let too_long = "v".repeat(65_537);
    for (name, value) in
        [("SCHILY.xattr.", "x"), ("LIBARCHIVE.xattr.user.a%00b", "eA"), ("SCHILY.xattr.user.a", &too_long)]
    {
        refuses(layer([Entry::file("a", "").pax(name, value)]), "E-xattr", "\"a\"");
    }
    refuses(
        layer([Entry::file("a", "").pax(format!("SCHILY.xattr.user.{}", "n".repeat(300)), "x")]),
        "E-xattr",
        "\"a\"",
    );
}

/// The init must set what a ramdisk brings: what it could not is left out and told.
#[test]
fn attributes_that_no_enclave_can_have() {
    let entry = |name: &str| Entry::file("a", "").pax("SCHILY.xattr.trusted.t", "1").pax(name, "x");
    for name in ["LIBARCHIVE.xattr.com.apple.quarantine", "SCHILY.xattr.security.capability", "SCHILY.xattr.system.x"] {
        let value = if name.starts_with('L') { "eA==" } else { "x" };
        let layers = layer([Entry::file("a", "").pax("SCHILY.xattr.trusted.t", "1").pax(name, value)]);
        let unpacked = Ask::default().layers(layers).unwrap();
        assert_eq!(unpacked.tree, ["f 0644 0:0 a  trusted.t=1"]);
        let [warning] = &unpacked.warnings[..] else { panic!("{:?}", unpacked.warnings) };
        let attribute = name.split_once("xattr.").unwrap().1;
        assert_eq!(warning.code, "E-xattr");
        assert!(warning.message.ends_with(&format!("left out: /a ({attribute})")), "{warning:?}");
    }
    let link = layer([Entry::symlink("a", "b").pax("SCHILY.xattr.user.a", "x")]);
    assert_eq!(Ask::default().layers(link).unwrap().tree, ["l 0777 0:0 a -> b"]);
    // All names of a file share them, and each is told once.
    let ramfs = Ask { ramfs: true, ..Ask::default() };
    let unpacked = ramfs.layers(layer([entry("SCHILY.xattr.user.a"), Entry::hardlink("b", "a")])).unwrap();
    assert_eq!(unpacked.tree, ["f 0644 0:0 a  (2)", "f 0644 0:0 b  (2)"]);
    assert!(unpacked.warnings[0].message.contains("ramfs"), "{:?}", unpacked.warnings);
    assert!(unpacked.warnings[0].message.ends_with("left out: /a (trusted.t), /a (user.a)"), "{:?}", unpacked.warnings);
}

/// Readers of an `.eif` hold them in memory.
#[test]
fn attributes_without_end() {
    let value = "v".repeat(1 << 16);
    let entry = |n: usize| {
        let pax = |entry: Entry, k: usize| entry.pax(format!("SCHILY.xattr.user.{k}"), &*value);
        (0..15).fold(Entry::file(format!("f{n:02}"), ""), pax)
    };
    assert!(Ask::default().layers(layer((0..68).map(entry))).is_ok());
    refuses(layer((0..69).map(entry)), "E-xattr", "\"f68\": an extended attribute is one too many");
}

/// A 0.0, a 0.1 and a 1.0 file as GNU tar writes them: 3 bytes, a hole, 2 bytes, and a hole at the end.
fn sparse_files() -> [Entry; 3] {
    let whole = |entry: Entry| entry.pax("GNU.sparse.size", "12").pax("GNU.sparse.numblocks", "3");
    let zero = [(0, 3), (6, 2), (12, 0)].iter().fold(whole(Entry::file("a", "abcde")), |entry, (offset, length)| {
        entry.pax("GNU.sparse.offset", offset.to_string()).pax("GNU.sparse.numbytes", length.to_string())
    });
    let one = whole(Entry::file("GNUSparseFile.0/a", "abcde"))
        .pax("GNU.sparse.name", "a")
        .pax("GNU.sparse.map", "0,3,6,2,12,0");
    let mut body = b"3\n0\n3\n6\n2\n12\n0\n".to_vec();
    body.resize(512, 0);
    body.extend(b"abcde");
    let two = Entry::file("GNUSparseFile.0/a", body).pax("GNU.sparse.major", "1").pax("GNU.sparse.minor", "0");
    [zero, one, two.pax("GNU.sparse.name", "a").pax("GNU.sparse.realsize", "12")]
}

#[test]
fn sparse_files_are_expanded() {
    for entry in sparse_files() {
        gives(
            layer([entry, Entry::file("b", "1")]),
            &[r"f 0644 0:0 a abc\x00\x00\x00de\x00\x00\x00\x00", "f 0644 0:0 b 1"],
        );
    }
    refuses(layer([Entry::new(b'S', "old").gnu()]), "E-unsupported-entry", "old");
}

#[test]
fn sparse_maps_that_lie() {
    let maps = ["0,3,6,3", "0,3,2,2", "0,3,12,2", "0,3,6", "6,2,0,3", "0,18446744073709551615", "0,4", "x", "", "-1,5"];
    for map in maps {
        let entry = Entry::file("a", "abcde").pax("GNU.sparse.size", "12").pax("GNU.sparse.map", map);
        let result = Ask::default().layers(layer([entry]));
        assert!(matches!(&result, Err(refused) if refused.code == "E-bad-tar"), "{map}: {result:?}");
    }
    for body in ["3\n0\n", "99999999\n", "1\n0\nx\n", "", "1\n0\n6\n", "123456789012345678901234567890\n"] {
        let mut body = body.as_bytes().to_vec();
        body.resize(512 + 5, 0);
        let entry = Entry::file("a", body).pax("GNU.sparse.major", "1").pax("GNU.sparse.minor", "0");
        let result = Ask::default().layers(layer([entry.pax("GNU.sparse.realsize", "12")]));
        assert!(matches!(&result, Err(refused) if refused.code == "E-bad-tar"), "{result:?}");
    }
    // The tar ends within the map.
    let cut =
        Entry::file("a", vec![b'1'; 600]).pax("GNU.sparse.major", "1").pax("GNU.sparse.realsize", "12").to_bytes();
    refuses(vec![Layer::from_tar(&cut[..cut.len() - 600])], "E-bad-tar", "within a sparse map");
    let huge = Entry::file("a", "").pax("GNU.sparse.size", "4294967296").pax("GNU.sparse.map", "4294967296,0");
    refuses(layer([huge]), "E-file-too-large", "4294967296");
}

#[test]
fn files_of_four_gib() {
    // Refused by the header alone: the body is not there.
    refuses(layer([Entry::file("a", "").claim_size(1 << 32)]), "E-file-too-large", "4294967296");
    refuses(layer([Entry::file("a", "").pax("size", "4294967296")]), "E-file-too-large", "4294967296");
    refuses(layer([Entry::file("a", "").claim_size(i128::from(u32::MAX))]), "E-truncated", "body");
}

/// What has no body has none, whatever its size field says: the next header follows at once.
#[test]
fn sizes_of_what_has_no_body() {
    let next = Entry::file("z", "1");
    for (entry, line) in [
        (Entry::dir("a"), "d 0755 0:0 a"),
        (Entry::symlink("a", "b"), "l 0777 0:0 a -> b"),
        (Entry::fifo("a"), "p 0644 0:0 a"),
        (Entry::char_device("a", 1, 3), "c 0644 0:0 a 1:3"),
    ] {
        gives(layer([entry.clone().claim_size(512), next.clone()]), &[line, "f 0644 0:0 z 1"]);
        gives(layer([entry.pax("size", "4294967296"), next.clone()]), &[line, "f 0644 0:0 z 1"]);
    }
    let link = Entry::hardlink("b", "a").claim_size(1);
    gives(layer([Entry::file("a", "1"), link, next]), &["f 0644 0:0 a 1 (2)", "f 0644 0:0 b 1 (2)", "f 0644 0:0 z 1"]);
}
