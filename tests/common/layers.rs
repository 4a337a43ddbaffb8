//! Layers of any kind, for properties of whoever applies them.

use proptest::prelude::*;

/// A line of a layer over few names, so that they meet often.
fn line_strategy() -> impl Strategy<Value = Vec<String>> {
    let name = prop::collection::vec(prop::sample::select(vec!["a", "b", "a-b", "c", r"\xff"]), 1..4)
        .prop_map(|parts| parts.join("/"));
    let who = (0_u32..8, 0_u32..8, prop::sample::select(vec!["0644", "0755", "4711", "0000"]));
    (0_u8..16, name.clone(), name, who, 0_u8..4).prop_map(|(kind, name, other, (uid, gid, mode), body)| {
        let what = format!("{mode} {uid}:{gid} {name}");
        match kind {
            0..=4 => vec![format!("f {what} {body}")],
            5..=8 => vec![format!("d {what}/")],
            9 => vec![format!("l {what} -> {other}")],
            10 => vec![format!("p {what}")],
            11 => vec![format!("c {what} {body}:1")],
            12 | 13 => vec![format!("w {name}")],
            14 => vec![format!("d {what}/"), format!("o {name}")],
            _ => vec![format!("h {name} => {other}")],
        }
    })
}

/// Lines of several layers.
pub fn layers_strategy() -> impl Strategy<Value = Vec<String>> {
    let layer = prop::collection::vec(line_strategy(), 0..10).prop_map(|lines| lines.concat());
    prop::collection::vec(layer, 1..5).prop_map(|layers| layers.join(&"--".to_owned()))
}
