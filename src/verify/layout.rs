//! Every byte range of a file, by name.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use serde::Serialize;

use crate::eif::header::{FIRST_SECTION, MAX_SECTIONS};
use crate::eif::{Eif, Header, Section, Source};

/// Some bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The first byte's offset.
    pub offset: u64,
    /// How many.
    pub size: u64,
    /// What they are: `header.magic`, `section 0.data`, `gap`, …
    pub name: String,
    /// What they say, of those that are a number or a word.
    pub value: String,
}

/// Names every byte, in file order. Ranges follow each other without a gap, except where sections overlap: there both
/// are named.
pub fn layout<S: Source>(eif: &Eif<S>) -> Vec<Range> {
    let mut ranges = header(eif.header());
    let mut end = FIRST_SECTION;
    for section in eif.sections() {
        if section.offset > end {
            ranges.push(range(end, section.offset.saturating_sub(end), "gap", String::new()));
        }
        ranges.extend(parts(section));
        end = end.max(section.end());
    }
    if eif.size() > end {
        ranges.push(range(end, eif.size().saturating_sub(end), "behind the last section", String::new()));
    }
    ranges
}

fn range(offset: u64, size: u64, name: impl Into<String>, value: impl Into<String>) -> Range {
    Range { offset, size, name: name.into(), value: value.into() }
}

fn header(header: &Header) -> Vec<Range> {
    let mut ranges = Vec::new();
    let mut at = 0_u64;
    let mut field = |size: u64, name: String, value: String| {
        ranges.push(range(at, size, format!("header.{name}"), value));
        at = at.saturating_add(size);
    };
    field(4, "magic".into(), ".eif".into());
    field(2, "version".into(), header.version.to_string());
    field(2, "flags".into(), format!("{:#06x}", header.flags));
    field(8, "default_mem".into(), header.default_mem.to_string());
    field(8, "default_cpus".into(), header.default_cpus.to_string());
    field(2, "reserved".into(), header.reserved.to_string());
    field(2, "num_sections".into(), header.num_sections.to_string());
    for (name, table) in [("section_offsets", &header.offsets), ("section_sizes", &header.sizes)] {
        for (slot, value) in table.iter().enumerate().take(usize::from(header.num_sections)) {
            field(8, format!("{name}[{slot}]"), value.to_string());
        }
        let unused = MAX_SECTIONS.saturating_sub(usize::from(header.num_sections));
        if unused > 0 {
            field((unused as u64).saturating_mul(8), format!("{name}[{}..]", header.num_sections), "unused".into());
        }
    }
    field(4, "unused".into(), header.unused.to_string());
    field(4, "crc32".into(), format!("{:08x}", header.crc32));
    ranges
}

fn parts(section: &Section) -> [Range; 4] {
    let Section { slot, kind, flags, offset, size } = *section;
    let name = |part: &str| format!("section {slot}.{part}");
    let at = |bytes: u64| offset.saturating_add(bytes);
    [
        range(offset, 2, name("type"), format!("{} ({kind})", kind.number())),
        range(at(2), 2, name("flags"), format!("{flags:#06x}")),
        range(at(4), 8, name("size"), size.to_string()),
        range(at(12), size, name("data"), String::new()),
    ]
}
