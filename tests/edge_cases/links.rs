//! Hard links: names of one inode, across layers, through symlinks, after whiteouts.

use eif_testdata::{Entry, layers};

use crate::world::{Ask, gives, layer, refuses, warns};

#[test]
fn targets_that_cannot_be_linked() {
    for target in ["nothing", "no/thing", "../../nothing", "/etc/passwd", "link"] {
        let shown = target.trim_start_matches("../").trim_start_matches('/');
        refuses(layer([Entry::hardlink("link", target)]), "E-hardlink-target", shown);
    }
    refuses(layers! { "d 0755 0:0 a", "h b => a" }, "E-hardlink-target", "is a directory");
    refuses(layers! { "f 0644 0:0 a 1", "h a => a" }, "E-hardlink-target", "itself");
    refuses(layers! { "h b => ." }, "E-hardlink-target", "is a directory");
    refuses(layers! { "f 0644 0:0 a 1", "h . => a" }, "E-hardlink-target", "is a directory");
    refuses(layer([Entry::hardlink("b", "")]), "E-hardlink-target", "\"b\"");
    refuses(layers! { "f 0644 0:0 a 1", "--", "w a", "h b => a" }, "E-hardlink-target", "does not exist");
    refuses(layers! { "f 0644 0:0 d/a 1", "--", "o d", "h b => d/a" }, "E-hardlink-target", "does not exist");
    refuses(layers! { "h a => b", "h b => a" }, "E-hardlink-target", "does not exist");
}

#[test]
fn targets_that_come_later() {
    gives(layers! { "h b => a", "f 0600 1:2 a 1" }, &["f 0600 1:2 a 1 (2)", "f 0600 1:2 b 1 (2)"]);
    let chain = layers! { "h a => b", "h b => c", "h c => d", "f 0644 0:0 d 1" };
    gives(chain, &["f 0644 0:0 a 1 (4)", "f 0644 0:0 b 1 (4)", "f 0644 0:0 c 1 (4)", "f 0644 0:0 d 1 (4)"]);
    // What comes later under the link's own name counts.
    gives(layers! { "h b => a", "f 0644 0:0 a 1", "f 0644 0:0 b 2" }, &["f 0644 0:0 a 1", "f 0644 0:0 b 2"]);
    // A target of the lower layer is taken as it is, though a new one comes later.
    let lower = layers! { "f 0644 0:0 a old", "--", "h b => a", "f 0644 0:0 a new" };
    gives(lower, &["f 0644 0:0 a new", "f 0644 0:0 b old"]);
}

#[test]
fn a_link_outlives_its_target() {
    gives(layers! { "f 0640 1:2 a 1", "--", "h b => a", "--", "w a" }, &["f 0640 1:2 b 1"]);
    gives(layers! { "f 0640 1:2 d/a 1", "h b => d/a", "--", "w d" }, &["f 0640 1:2 b 1"]);
    gives(
        layers! { "f 0644 0:0 a 1", "h b => a", "h c => a", "--", "f 0600 0:0 a 2" },
        &["f 0600 0:0 a 2", "f 0644 0:0 b 1 (2)", "f 0644 0:0 c 1 (2)"],
    );
    gives(layers! { "f 0644 0:0 a 1", "h b => a", "--", "w a", "w b" }, &[]);
    gives(
        layers! { "f 0644 0:0 a 1", "h b => a", "--", "d 0755 0:0 a", "d 0755 0:0 a/x" },
        &["d 0755 0:0 a", "d 0755 0:0 a/x", "f 0644 0:0 b 1"],
    );
    // The target lies below what the link replaces.
    warns(layers! { "d 0755 0:0 d", "f 0644 0:0 d/a 1", "h d => d/a" }, "E-duplicate", &["f 0644 0:0 d 1"]);
}

#[test]
fn links_to_replaced_names() {
    let replaced = layers! { "f 0644 0:0 a 1", "h b => a", "--", "f 0644 0:0 a 2", "--", "h c => a", "h d => b" };
    gives(replaced, &["f 0644 0:0 a 2 (2)", "f 0644 0:0 b 1 (2)", "f 0644 0:0 c 2 (2)", "f 0644 0:0 d 1 (2)"]);
    // A link over another name of the same inode changes nothing, and twice the same link is one name.
    gives(layers! { "f 0644 0:0 a 1", "h b => a", "--", "h a => b" }, &["f 0644 0:0 a 1 (2)", "f 0644 0:0 b 1 (2)"]);
    gives(layers! { "f 0644 0:0 a 1", "h b => a", "h b => a" }, &["f 0644 0:0 a 1 (2)", "f 0644 0:0 b 1 (2)"]);
}

#[test]
fn links_to_what_is_no_file() {
    gives(layers! { "l 0777 1:1 a -> x", "h b => a" }, &["l 0777 1:1 a -> x (2)", "l 0777 1:1 b -> x (2)"]);
    gives(layers! { "p 0600 1:1 a", "h b => a" }, &["p 0600 1:1 a (2)", "p 0600 1:1 b (2)"]);
    gives(layers! { "c 0600 1:1 a 1:3", "h b => a" }, &["c 0600 1:1 a 1:3 (2)", "c 0600 1:1 b 1:3 (2)"]);
    gives(layers! { "b 0600 1:1 a 8:1", "h b => a" }, &["b 0600 1:1 a 8:1 (2)", "b 0600 1:1 b 8:1 (2)"]);
}

#[test]
fn targets_are_found_inside_the_root() {
    for target in ["/d/a", "../../d/a", "./d//a", "d/x/../a"] {
        let link = Entry::hardlink("b", target);
        gives(layer([Entry::file("d/a", "1"), link]), &["f 0644 0:0 b 1 (2)", "d 0755 0:0 d", "f 0644 0:0 d/a 1 (2)"]);
    }
    for to in ["d", "/d", "../d"] {
        let layers = layer([Entry::file("d/a", "1"), Entry::symlink("s", to), Entry::hardlink("b", "s/a")]);
        let link = format!("l 0777 0:0 s -> {to}");
        gives(layers, &["f 0644 0:0 b 1 (2)", "d 0755 0:0 d", "f 0644 0:0 d/a 1 (2)", &link]);
    }
    refuses(layers! { "l 0777 0:0 s -> s", "h b => s/a" }, "E-symlink-loop", "\"b\"");
}

/// One inode has one owner, mode and time: the target's, whatever the link's header says.
#[test]
fn metadata_of_the_link_are_the_target_s() {
    let link = Entry::hardlink("b", "a").owner(9, 9).mode(0o777).mtime(9).body("").pax("SCHILY.xattr.user.x", "1");
    let unpacked =
        Ask::default().layers(layer([Entry::file("a", "1").owner(1, 2).mode(0o640).mtime(3), link])).unwrap();
    assert_eq!(unpacked.tree, ["f 0640 1:2 a 1 (2)", "f 0640 1:2 b 1 (2)"]);
    assert_eq!(unpacked.times, [3, 3]);
}
