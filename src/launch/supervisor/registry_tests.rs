use serde_json::json;
use tempfile::TempDir;

use super::*;

fn state() -> State {
    State::unreadable(Path::new("app"))
}

fn place(registry: &Registry) -> Place {
    let claim = registry.claim(&Name::new("app").unwrap(), false).unwrap();
    let mut place = claim.settle(state()).unwrap();
    place.publish().unwrap();
    place
}

fn registry() -> (TempDir, Registry) {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::open(&folder.path().join("run")).unwrap();
    (folder, registry)
}

/// A file may say something of itself that is nested as deep as a reader goes, and it is nested deeper in a state.
#[test]
fn what_is_written_can_be_read() {
    let deep = (0..125).fold(json!(1), |inner, _| json!([inner]));
    let told = State { described: Some(json!({ "Metadata": { "DockerInfo": deep } })), ..state() };
    assert!(serde_json::from_slice::<State>(&serde_json::to_vec(&told).unwrap()).is_err(), "it is deep enough");
    let read: State = serde_json::from_slice(&told.to_bytes().unwrap()).unwrap();
    assert_eq!(read.described, None);
    let told = State { described: Some(json!({ "Metadata": 1 })), ..told };
    let read: State = serde_json::from_slice(&told.to_bytes().unwrap()).unwrap();
    assert_eq!(read.described, told.described);
}

#[test]
fn another_enclave_of_the_name_is_told_from_the_one_before() {
    let (_folder, registry) = registry();
    let mut first = place(&registry);
    let entry = registry.find("app").unwrap();
    assert_eq!((entry.standing, entry.end().unwrap()), (Standing::Running, None));
    // The driver's id comes later than the row, and changes nothing.
    first.update(|state| state.facts.id = "i-1-enc2".into()).unwrap();
    first.update(|state| state.end = Some(End::Exited(3))).unwrap();
    assert_eq!(entry.end().unwrap(), Some(End::Exited(3)));
    first.vacate();
    assert!(matches!(entry.end(), Err(Error::Unknown(name)) if name == "app"));
    let _second = place(&registry);
    assert!(matches!(entry.end(), Err(Error::Replaced(name)) if name == "app"));
    // It is forgotten already, and the other one lives on.
    registry.forget(&entry).unwrap();
    let other = registry.find("app").unwrap();
    assert!(matches!(registry.forget(&other), Err(Error::Taken(_))));
}
