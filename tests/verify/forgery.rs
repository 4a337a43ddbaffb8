//! A file taken apart and put together again with every sum right: what somebody does who knows the format.

use serde_json::Value;

const HEADER: usize = 548;

pub const KERNEL: u16 = 1;
pub const CMDLINE: u16 = 2;
pub const RAMDISK: u16 = 3;
pub const SIGNATURE: u16 = 4;
pub const METADATA: u16 = 5;

/// Type, flags and data of a section.
#[derive(Clone)]
pub struct Section {
    pub kind: u16,
    pub flags: u16,
    pub data: Vec<u8>,
}

/// Header and sections; offsets, sizes and CRC are made when it is written.
pub struct Forgery {
    pub header: Vec<u8>,
    pub sections: Vec<Section>,
}

impl Forgery {
    pub fn of(file: &[u8]) -> Self {
        let mut sections = Vec::new();
        let mut at = HEADER;
        while at < file.len() {
            let number = |from: usize| u16::from_be_bytes(file[from..from + 2].try_into().unwrap());
            let size = u64::from_be_bytes(file[at + 4..at + 12].try_into().unwrap());
            let end = at + 12 + usize::try_from(size).unwrap();
            sections.push(Section { kind: number(at), flags: number(at + 2), data: file[at + 12..end].to_vec() });
            at = end;
        }
        Self { header: file[..HEADER].to_vec(), sections }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut file = self.header.clone();
        file[28..540].fill(0);
        file[26..28].copy_from_slice(&u16::try_from(self.sections.len()).unwrap().to_be_bytes());
        for (slot, Section { kind, flags, data }) in self.sections.iter().enumerate() {
            let (offset, size) = (file.len() as u64, data.len() as u64);
            file[28 + slot * 8..][..8].copy_from_slice(&offset.to_be_bytes());
            file[284 + slot * 8..][..8].copy_from_slice(&size.to_be_bytes());
            file.extend(kind.to_be_bytes());
            file.extend(flags.to_be_bytes());
            file.extend(size.to_be_bytes());
            file.extend(data);
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&file[..544]);
        crc.update(&file[HEADER..]);
        file[544..HEADER].copy_from_slice(&crc.finalize().to_be_bytes());
        file
    }

    /// The data of the `nth` section of a type.
    pub fn data(&mut self, kind: u16, nth: usize) -> &mut Vec<u8> {
        let found = self.sections.iter_mut().filter(|section| section.kind == kind).nth(nth);
        &mut found.expect("the section is there").data
    }

    /// Replaces bytes by as many others, once.
    pub fn replace(&mut self, kind: u16, nth: usize, from: &[u8], to: &[u8]) {
        assert_eq!(from.len(), to.len());
        let data = self.data(kind, nth);
        let at = data.windows(from.len()).position(|window| window == from).expect("the bytes are there");
        data[at..at + to.len()].copy_from_slice(to);
    }

    /// The metadata.
    pub fn json(&mut self) -> Value {
        serde_json::from_slice(self.data(METADATA, 0)).unwrap()
    }

    /// Changes the metadata as JSON.
    pub fn metadata(&mut self, change: impl FnOnce(&mut Value)) {
        let data = self.data(METADATA, 0);
        let mut value: Value = serde_json::from_slice(data).unwrap();
        change(&mut value);
        // AWS's order of keys at the top, byte order below, as `eif` writes them.
        let members = ["ImageName", "ImageVersion", "BuildMetadata", "DockerInfo", "CustomMetadata"].map(|key| {
            let value = if key == "BuildMetadata" { ordered(&value[key]) } else { value[key].to_string() };
            format!("\"{key}\":{value}")
        });
        *data = format!("{{{}}}", members.join(",")).into_bytes();
    }

    /// Changes one member of the record.
    pub fn record(&mut self, pointer: &str, to: Value) {
        self.metadata(|metadata| {
            let record = &mut metadata["CustomMetadata"]["eif"];
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            record.pointer_mut(parent).unwrap()[key] = to;
        });
    }
}

fn ordered(build: &Value) -> String {
    let keys = ["BuildTime", "BuildTool", "BuildToolVersion", "OperatingSystem", "KernelVersion"];
    format!("{{{}}}", keys.map(|key| format!("\"{key}\":{}", build[key])).join(","))
}
