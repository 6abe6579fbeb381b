//! Which life of which data a call to a worker is meant for, as metadata of the call.
//!
//! A worker that has started again may hold less than what the caller knows of it. Its answers would be taken for those
//! of the start that was let vote, so it refuses what is meant for another one.

use tonic::metadata::MetadataMap;

const WORKER_UUID: &str = "tercet-worker-uuid";
const BOOT_GENERATION: &str = "tercet-boot-generation";

/// Names the worker's data and its start.
pub fn name_life(metadata: &mut MetadataMap, worker_uuid: &str, boot_generation: u64) {
    for (name, value) in [(WORKER_UUID, worker_uuid), (BOOT_GENERATION, &boot_generation.to_string())] {
        // What is no header value is no uuid of a worker either, and is refused there.
        if let Ok(value) = value.parse() {
            metadata.insert(name, value);
        }
    }
}

/// Whether a call names this data and this start.
pub fn names_life(metadata: &MetadataMap, worker_uuid: &str, boot_generation: u64) -> bool {
    let said = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
    said(WORKER_UUID) == Some(worker_uuid) && said(BOOT_GENERATION) == Some(&boot_generation.to_string())
}
