//! The table of edge cases, row by row: what an image that is odd, broken or hostile becomes, or how it is refused.

#[path = "../common/mod.rs"]
mod common;

mod archives;
mod attacks;
mod config;
mod links;
mod manifests;
mod names;
mod streams;
mod whiteouts;
mod world;
