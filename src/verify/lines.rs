//! The lines in which two small texts differ.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use crate::escaped;

/// At most so many lines are given.
const MAX_LINES: usize = 40;
/// Texts with more lines between their equal ends are not matched line by line.
const MAX_MATCHED: usize = 1000;

/// Lines that only `a` has with `-`, lines that only `b` has with `+`, escaped; at the end `…` if there are more.
pub(super) fn difference(a: &str, b: &str) -> Vec<String> {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    let head = a.iter().zip(&b).take_while(|(one, other)| one == other).count();
    let (a, b) = (a.get(head..).unwrap_or_default(), b.get(head..).unwrap_or_default());
    let tail = a.iter().rev().zip(b.iter().rev()).take_while(|(one, other)| one == other).count();
    let (a, b) = (without_tail(a, tail), without_tail(b, tail));
    let mut out = if a.len() > MAX_MATCHED || b.len() > MAX_MATCHED { all(a, b) } else { matched(a, b) };
    if out.len() > MAX_LINES {
        out.truncate(MAX_LINES);
        out.push("…".to_owned());
    }
    out
}

fn without_tail<'a, 'b>(lines: &'a [&'b str], tail: usize) -> &'a [&'b str] {
    lines.get(..lines.len().saturating_sub(tail)).unwrap_or_default()
}

fn marked<'a>(mark: char, lines: &'a [&str]) -> impl Iterator<Item = String> + 'a {
    lines.iter().map(move |line| format!("{mark}{}", escaped(line.as_bytes())))
}

fn all(a: &[&str], b: &[&str]) -> Vec<String> {
    marked('-', a).chain(marked('+', b)).collect()
}

/// By the longest common subsequence: `table[i][j]` is its length for what follows line i of `a` and line j of `b`.
fn matched(a: &[&str], b: &[&str]) -> Vec<String> {
    let mut table: Vec<Vec<u16>> = vec![vec![0; b.len().saturating_add(1)]];
    for line in a.iter().rev() {
        let below = table.last().cloned().unwrap_or_default();
        let mut row = vec![0];
        for (other, pair) in b.iter().rev().zip(below.windows(2).rev()) {
            let (at, right) = (pair.first().copied().unwrap_or(0), row.last().copied().unwrap_or(0));
            let both = pair.last().copied().unwrap_or(0).saturating_add(1);
            row.push(if line == other { both } else { at.max(right) });
        }
        row.reverse();
        table.push(row);
    }
    table.reverse();
    let length = |i: usize, j: usize| table.get(i).and_then(|row| row.get(j)).copied().unwrap_or(0);
    let (mut i, mut j, mut out) = (0_usize, 0_usize, Vec::new());
    while i < a.len() || j < b.len() {
        let (next_i, next_j) = (i.saturating_add(1), j.saturating_add(1));
        match (a.get(i), b.get(j)) {
            (Some(one), Some(other)) if one == other => (i, j) = (next_i, next_j),
            (Some(one), other) if other.is_none() || length(next_i, j) >= length(i, next_j) => {
                out.extend(marked('-', &[one]));
                i = next_i;
            }
            (_, other) => {
                out.extend(marked('+', other.map(std::slice::from_ref).unwrap_or_default()));
                j = next_j;
            }
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_differs_is_shown() {
        assert_eq!(difference("a\nb\nc\nd\n", "a\nc\nx\nd\n"), ["-b", "+x"]);
        assert_eq!(difference("a\n", "a\nb\n"), ["+b"]);
        assert!(difference("same\n", "same").is_empty());
        assert_eq!(difference("x\u{7}\n", ""), [r"-x\x07"]);
        assert_eq!(difference(&"a\n".repeat(5000), "").len(), MAX_LINES + 1);
    }

    proptest! {
        #[test]
        fn prop_the_lines_lead_from_one_text_to_the_other(a in "([abc]\n){0,12}", b in "([abc]\n){0,12}") {
            let out = difference(&a, &b);
            let counted = |text: &str, letter: &str| text.lines().filter(|line| *line == letter).count();
            for letter in ["a", "b", "c"] {
                let mark = |mark: &str| out.iter().filter(|line| **line == format!("{mark}{letter}")).count();
                prop_assert_eq!(counted(&a, letter) + mark("+"), counted(&b, letter) + mark("-"));
            }
        }
    }
}
