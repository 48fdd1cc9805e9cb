//! What happens to memory the guest gave up: the host gets it back, except for bad pages.

use std::sync::Arc;

use ras_core::{Gpa, PAGE_SIZE};

use super::mapping::GuestRam;
use crate::devices::virtio::mem::Backing;
use crate::poison::Poison;

/// The memory behind a virtio-mem device.
///
/// **Invariant:** a bad page the guest gave up is neither punched out of the memfd, which would hand
/// its frame to somebody else, nor ever plugged again.
#[derive(Debug)]
pub struct HostMemory {
    ram: Arc<GuestRam>,
    poison: Arc<Poison>,
}

impl HostMemory {
    /// The memory of a guest, and what is known of its bad pages.
    #[must_use]
    pub fn new(ram: Arc<GuestRam>, poison: Arc<Poison>) -> Self {
        Self { ram, poison }
    }

    fn discard(&self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        if let Err(error) = self.ram.discard(Gpa(from), to - from) {
            // The guest does not use it any more either way; only the host's gain is lost.
            tracing::warn!("unplugged memory is not returned: {}", crate::migrate::chain(&error));
        }
    }
}

impl Backing for HostMemory {
    fn release(&self, gpa: Gpa, len: u64) {
        let held = self.poison.list().hold(gpa, len);
        let mut from = gpa.0;
        for page in held {
            self.discard(from, page.0);
            from = page.0 + PAGE_SIZE;
        }
        self.discard(from, gpa.0 + len);
    }

    fn is_held(&self, gpa: Gpa, len: u64) -> bool {
        self.poison.list().is_held(gpa, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::mapping::{RegionConfig, RegionKind};

    #[test]
    fn all_but_the_bad_pages_goes_back_to_the_host() {
        let (gpa, size, kind) = (Gpa(4 << 30), 2 << 20, RegionKind::VirtioMem);
        let ram = Arc::new(GuestRam::new(&[RegionConfig { gpa, size, kind }]).unwrap());
        ram.write(gpa, &vec![7; 2 << 20]).unwrap();
        let poison = Arc::new(Poison::default());
        let at = |page: u64| Gpa(gpa.0 + page * PAGE_SIZE);
        for page in [0, 5, 6, 511] {
            poison.note_lost(at(page), None);
        }
        let memory = HostMemory::new(Arc::clone(&ram), Arc::clone(&poison));
        assert!(!memory.is_held(gpa, size), "still the guest's");
        memory.release(gpa, size);
        assert!(memory.is_held(at(5), 1));
        let kept = [(at(0), PAGE_SIZE), (at(5), 2 * PAGE_SIZE), (at(511), PAGE_SIZE)];
        assert_eq!(ram.allocated(gpa, size), kept);
        let mut byte = [0];
        ram.read(at(5), &mut byte).unwrap();
        assert_eq!(byte, [7], "a held page is not touched at all");
    }
}
