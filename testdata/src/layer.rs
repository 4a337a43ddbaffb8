//! A layer: records, raw bytes between them, an end, and a compression.

use crate::{Compression, Entry, sha256};

/// A layer in the making. Order is kept; nothing is checked.
#[derive(Clone, Debug)]
pub struct Layer {
    pieces: Vec<Piece>,
    end: Vec<u8>,
    compression: Compression,
    media_type: Option<String>,
    packed: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Piece {
    Entry(Box<Entry>),
    Raw(Vec<u8>),
}

impl Default for Layer {
    fn default() -> Self {
        Layer::new()
    }
}

impl Layer {
    /// An empty layer that ends in two blocks of zeros.
    pub fn new() -> Self {
        Layer { pieces: Vec::new(), end: vec![0; 1024], compression: Compression::None, media_type: None, packed: None }
    }

    /// A layer whose tar is exactly these bytes.
    pub fn from_tar(tar: impl Into<Vec<u8>>) -> Self {
        Layer::new().raw(tar.into()).end("")
    }

    /// Adds a record.
    pub fn entry(mut self, entry: Entry) -> Self {
        self.pieces.push(Piece::Entry(Box::new(entry)));
        self
    }

    /// Adds bytes as they are.
    pub fn raw(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.pieces.push(Piece::Raw(bytes.as_ref().to_vec()));
        self
    }

    /// Replaces the two final blocks of zeros.
    pub fn end(self, bytes: impl AsRef<[u8]>) -> Self {
        Layer { end: bytes.as_ref().to_vec(), ..self }
    }

    /// Sets the compression.
    pub fn compress(self, compression: Compression) -> Self {
        Layer { compression, ..self }
    }

    /// Makes the blob exactly these bytes, whatever the tar and the compression are: a shape that no packer writes.
    pub fn packed(self, blob: impl Into<Vec<u8>>) -> Self {
        Layer { packed: Some(blob.into()), ..self }
    }

    /// Claims this media type in the manifest, whatever the bytes are.
    pub fn claim_media_type(self, media_type: impl Into<String>) -> Self {
        Layer { media_type: Some(media_type.into()), ..self }
    }

    /// The media type that the manifest claims, if it is not the true one.
    pub fn claimed_media_type(&self) -> Option<&str> {
        self.media_type.as_deref()
    }

    /// The compression.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The records, in order. Raw bytes are no records.
    ///
    /// # Panics
    /// When the layer has raw bytes: no model knows what they mean.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.pieces.iter().map(|piece| match piece {
            Piece::Entry(entry) => &**entry,
            Piece::Raw(_) => panic!("a layer with raw bytes has no list of entries"),
        })
    }

    /// The plain tar.
    pub fn tar(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Entry(entry) => out.extend(entry.to_bytes()),
                Piece::Raw(bytes) => out.extend_from_slice(bytes),
            }
        }
        out.extend_from_slice(&self.end);
        out
    }

    /// The blob: the tar, packed.
    pub fn blob(&self) -> Vec<u8> {
        self.packed.clone().unwrap_or_else(|| self.compression.pack(&self.tar()))
    }

    /// The digest of the plain tar, `sha256:…`.
    pub fn diff_id(&self) -> String {
        sha256(&self.tar())
    }
}

impl FromIterator<Entry> for Layer {
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Self {
        entries.into_iter().fold(Layer::new(), Layer::entry)
    }
}
