//! The promise of `eif verify`: it says yes only to the bytes that the image gives, and names what is otherwise.

#[path = "../common/mod.rs"]
mod common;

mod forgery;
mod nitro;
mod same;
mod tampered;
mod undecided;
mod world;
