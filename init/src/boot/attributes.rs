//! Gives the image's files the extended attributes that the ramdisk format could not carry.

use super::console;
use super::failure::Failure;
use crate::errno::Errno;
use crate::sys;
use crate::xattrs::{Attribute, Attributes};

/// Sets all of them. Runs in the application's root before anything is mounted over it.
pub fn apply(attributes: Attributes<'static>) -> Result<(), Failure> {
    for attribute in attributes {
        set(attribute.map_err(|broken| Failure::new("xattrs", Errno::EINVAL).because(broken.reason()))?)?;
    }
    Ok(())
}

/// A `user.` attribute is a note of the application's to itself, and tmpfs has those since Linux 6.6 only: without
/// them the enclave says so and goes on. Any other (capabilities, ACLs) decides about permissions and must be set.
fn set(attribute: Attribute<'static>) -> Result<(), Failure> {
    let is_note = attribute.name.to_bytes().starts_with(b"user.");
    let failure = |errno| Failure::new("xattr", errno).of(attribute.path.to_bytes());
    match sys::set_attribute(attribute.path, attribute.name, attribute.value).map_err(failure) {
        Err(failure) if is_note && failure.errno() == Errno::EOPNOTSUPP => {
            console::say(failure.line().bytes());
            Ok(())
        }
        other => other,
    }
}
