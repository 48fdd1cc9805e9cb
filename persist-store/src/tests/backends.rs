//! The crash suite over lists of images: EFI variables and error records; and what only those have.

use std::io::ErrorKind;

use ras_core::translate::Snapshot;
use ras_core::translate::amd::{DramMap, Register, Revision, Station};
use ras_store_format::Image;
use ras_store_format::fmpm::{Fru, FruRecord, Poison};

use super::suite::{self, Medium};
use super::*;
use crate::backend::erst::ErrorRecords;
use crate::backend::simulated::{Fate, Plan, Unsynced};
use crate::backend::simulated_device::SimulatedDevice;
use crate::{
    Boot, Crossing, ErstList, FileList, ImageList, MemoryList, Package, PageList, RecordStore as _,
};

const BOOT: Boot = Boot([7; 16]);

/// EFI variables.
pub(crate) struct Variables(SimulatedDevice);

/// Error records.
pub(crate) struct Records(SimulatedDevice);

macro_rules! on_device {
    ($medium:ident, $list:ty, $open:expr) => {
        impl Medium for $medium {
            type List = $list;

            /// A write that was cut off and damage at rest leave the same.
            const TELLS_TORN: bool = false;

            fn empty(seed: &str) -> Self {
                Self(SimulatedDevice::empty(seed))
            }

            fn list(&self) -> $list {
                $open(self.0.clone())
            }

            fn duplicate(&self) -> Self {
                Self(self.0.duplicate())
            }

            fn plan(&self, plan: Plan) {
                self.0.plan(plan);
            }

            fn unsynced(&self) -> Unsynced {
                self.0.unsynced()
            }

            fn with_survivors(&self, _: usize, fate: &mut dyn FnMut(usize) -> Fate) -> Self {
                Self(self.0.with_survivors(fate))
            }

            fn after_process_death(&self) -> Self {
                Self(self.0.after_process_death())
            }

            fn sectors(&self) -> usize {
                self.0.sectors()
            }

            fn spoil(&self, sector: usize, change: &mut dyn FnMut(&mut [u8])) {
                self.0.spoil(sector, change);
            }
        }
    };
}

on_device!(Variables, ImageList<SimulatedDevice>, |device| ImageList::new(device, BOOT, u64::MAX));
on_device!(Records, ErstList<SimulatedDevice>, |device| ErstList::new(device, BOOT));

#[test]
fn every_backend_keeps_what_it_acknowledges() {
    let temp = tempfile::TempDir::new().unwrap();
    suite::keeps_what_it_acknowledges("file", &mut FileList::new(temp.path()));
    suite::keeps_what_it_acknowledges("memory", &mut MemoryList::default());
    let variables = Variables::empty("contract");
    suite::keeps_what_it_acknowledges("EFI variables", &mut variables.list());
    let records = Records::empty("contract");
    suite::keeps_what_it_acknowledges("error records", &mut records.list());
}

/// Memory is bounded like a journal, and a refused commit leaves no trace.
#[test]
fn a_list_in_memory_is_full_at_some_point() {
    let mut list = MemoryList::default();
    list.load().unwrap();
    let room = list.capacity().pages;
    let all: Vec<_> = (0..room).map(|number| page(number, RetireState::Pending)).collect();
    list.commit(&all).unwrap();
    let before = list.load().unwrap().0;
    let refused = list.commit(&[
        unretired(1),
        page(room, RetireState::Pending),
        page(room + 1, RetireState::Pending),
    ]);
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    assert!(list.load().unwrap().0 == before, "a refused commit was applied");
    list.commit(&[unretired(1), page(room, RetireState::Pending)]).unwrap();
}

#[test]
fn variables_lose_power_at_every_call() {
    suite::power_loss_at_every_call::<Variables>("EFI variables", suite::points_wanted());
}

#[test]
fn records_lose_power_at_every_call() {
    suite::power_loss_at_every_call::<Records>("error records", suite::points_wanted());
}

#[test]
fn every_call_fails_once() {
    for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
        suite::every_call_fails_once::<Variables>("EFI variables", kind);
        suite::every_call_fails_once::<Records>("error records", kind);
    }
}

#[test]
fn every_sector_spoiled() {
    suite::every_sector_spoiled::<Variables>("EFI variables");
    suite::every_sector_spoiled::<Records>("error records");
}

fn variables(device: &SimulatedDevice, boot: Boot, budget: u64) -> ImageList<SimulatedDevice> {
    ImageList::new(device.clone(), boot, budget)
}

/// Every byte, not every sector: one flip is always found and always mended, two of them are loud.
#[test]
fn every_byte_flipped() {
    let device = SimulatedDevice::empty("every_byte_flipped");
    let mut list = variables(&device, BOOT, u64::MAX);
    list.load().unwrap();
    for number in 0..4 {
        list.commit(&[page(number, RetireState::Pending)]).unwrap();
    }
    let (state, recovery) = list.load().unwrap();
    assert!(recovery.is_clean());
    for copies in [&[0][..], &[1], &[0, 1]] {
        for at in 0..device.blobs()[&0].len() {
            let damaged = device.duplicate();
            for copy in copies {
                let mut blob = damaged.blobs()[copy].clone();
                blob[at] ^= 1 << (at % 8);
                damaged.put(*copy, &blob);
            }
            let mut list = variables(&damaged, BOOT, u64::MAX);
            let (found, recovery) = list.load().unwrap();
            assert!(!recovery.is_clean(), "copies {copies:?}, byte {at}: went unnoticed");
            if let [_] = copies {
                assert_eq!((found, recovery.damaged_copies), (state.clone(), 1));
                assert!(list.load().unwrap().1.is_clean(), "not mended");
                continue;
            }
            // Loud, remembered, and not written over before there is something to say.
            assert!(recovery.damage.is_some() && found.is_damaged());
            let before = damaged.blobs();
            list.commit(&[]).unwrap();
            assert!(list.load().unwrap().0.is_damaged());
            assert_eq!(damaged.blobs(), before, "the evidence is gone");
            list.commit(&[page(9, RetireState::Pending)]).unwrap();
            let (found, recovery) = list.load().unwrap();
            assert!(found.is_damaged() && found.pages.len() == 1 && recovery.is_clean());
        }
    }
    // A variable that went away, each by itself and both: with both gone nobody can know.
    for copy in [0, 1] {
        let damaged = device.duplicate();
        damaged.remove(copy);
        let (found, recovery) = variables(&damaged, BOOT, u64::MAX).load().unwrap();
        assert_eq!((found, recovery.damaged_copies), (state.clone(), 1));
    }
}

#[test]
fn a_newer_image_is_left_alone() {
    let device = SimulatedDevice::empty("newer");
    let mut list = variables(&device, BOOT, u64::MAX);
    list.load().unwrap();
    list.commit(&[page(1, RetireState::Pending)]).unwrap();
    let mut newer = device.blobs()[&1].clone();
    newer[12] = 2;
    let checksum = ras_store_format::crc32c(&newer[12..]).to_le_bytes();
    newer[8..12].copy_from_slice(&checksum);
    device.put(1, &newer);
    let before = device.blobs();
    let error = list.load().unwrap_err();
    assert!(matches!(error, StoreError::UnsupportedVersion { .. }), "{error}");
    let error = list.commit(&[page(2, RetireState::Pending)]).unwrap_err();
    assert!(matches!(error, StoreError::Poisoned { .. }), "{error}");
    assert_eq!(device.blobs(), before);
}

/// A page costs one write in its life, and what is not kept none.
#[test]
fn what_changes_nothing_writes_nothing() {
    let device = SimulatedDevice::empty("wear");
    let mut list = variables(&device, BOOT, u64::MAX);
    list.load().unwrap();
    list.commit(&[observed(1), node(1)]).unwrap();
    assert!(device.blobs().is_empty(), "an empty list is not worth a write");
    list.commit(&[page(1, RetireState::Pending)]).unwrap();
    let written = list.wear().0;
    assert!(written > 0);
    for state in [RetireState::Failed, RetireState::Retired, RetireState::Pending] {
        list.commit(&[page(1, state), observed(2), node(2)]).unwrap();
    }
    assert_eq!(list.wear().0, written);
    list.commit(&[unretired(1)]).unwrap();
    assert!(list.wear().0 > written);
    assert!(list.load().unwrap().0.pages.is_empty());
}

/// The limit between two boots is the medium's, not the process's; and it is loud.
#[test]
fn wear_is_bounded_and_loud() {
    const BUDGET: u64 = 4000;
    let device = SimulatedDevice::empty("budget");
    let mut acknowledged = State::default();
    let mut written = 0;
    for number in 0..100 {
        // A new process each time.
        let mut list = variables(&device, BOOT, BUDGET);
        let (state, recovery) = list.load().unwrap();
        assert!(recovery.is_clean());
        assert_eq!(state, acknowledged);
        let entry = page(number, RetireState::Pending);
        match list.commit(std::slice::from_ref(&entry)) {
            Ok(()) => acknowledged = list.kept(&applied(&acknowledged, &[entry])),
            Err(StoreError::Worn { budget: BUDGET, written: so_far, .. }) => {
                written = so_far;
                break;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(written > BUDGET / 2 && acknowledged.pages.len() > 3);
    let bytes: Vec<u8> = device.blobs().into_values().next().unwrap();
    assert!(Image::decode(&bytes).unwrap().boot_bytes <= BUDGET);

    // The next boot.
    let mut list = variables(&device, Boot([8; 16]), BUDGET);
    assert_eq!(list.load().unwrap().0, acknowledged);
    list.commit(&[page(99, RetireState::Pending)]).unwrap();
}

#[test]
fn a_full_medium_is_loud_and_keeps_the_list() {
    let device = SimulatedDevice::empty("full");
    let mut list = variables(&device, BOOT, u64::MAX);
    list.load().unwrap();
    let mut acknowledged = State::default();
    let guaranteed = list.capacity().pages;
    for number in 0.. {
        let entry = page(number, RetireState::Pending);
        match list.commit(std::slice::from_ref(&entry)) {
            Ok(()) => acknowledged = list.kept(&applied(&acknowledged, &[entry])),
            Err(StoreError::Full { size_max: 32_768, .. }) => break,
            Err(other) => panic!("{other}"),
        }
    }
    println!("{} pages in 32 KiB, {guaranteed} guaranteed", acknowledged.pages.len());
    assert!(acknowledged.pages.len() as u64 > guaranteed);
    assert_eq!(list.load().unwrap().0, acknowledged);
    // There is room again for what makes it shorter.
    list.commit(&[unretired(3)]).unwrap();
    assert_eq!(list.load().unwrap().0.pages.len(), acknowledged.pages.len() - 1);
}

const FRU: Fru = Fru { cpuid: 0xa9_0f00, ppin: 0x1122_3344_5566_7788 };

/// Two channels, by 256 bytes, in one socket (DF2).
fn snapshot() -> Snapshot {
    let map = DramMap {
        base: Register(0x11),
        limit: Register(0xff_f000),
        ctl: None,
        intlv: None,
        offset: None,
    };
    let stations = [0, 1].map(|instance| Station {
        socket: 0,
        die: 0,
        instance,
        block_instance_information: Some(Register(u32::from(instance) << 8)),
        maps: vec![map],
        target_remap: vec![],
        np2_channel_config: None,
    });
    Snapshot {
        revision: Revision::Df2,
        device_vendor_id: Register(0),
        fabric_id_mask: vec![Register(0x7580_6000)],
        dram_hole_control: Register(0),
        apic: None,
        umc: None,
        stations: stations.into(),
    }
}

fn crossing() -> Crossing {
    Crossing::new(vec![Package { fru: FRU, socket: 0 }])
}

fn poison(number: u64) -> Poison {
    Poison {
        time: 1_700_000_000 + number,
        ipid: 0x96_0010_0f00,
        addr: 0x1234_0000 + number * 0x10_000,
    }
}

fn kernels(device: &SimulatedDevice) -> Vec<FruRecord> {
    device
        .clone()
        .records()
        .unwrap()
        .iter()
        .filter_map(|bytes| FruRecord::decode(bytes).ok())
        .collect()
}

#[test]
fn what_the_kernel_wrote_becomes_pages() {
    let device = SimulatedDevice::empty("import");
    let mut record = FruRecord::new(5, FRU, 0);
    record.add(poison(0)).unwrap();
    record.add(poison(1)).unwrap();
    // An entry that no station holds.
    let elsewhere = Poison { ipid: 0x96_0070_0f00, ..poison(2) };
    record.add(elsewhere).unwrap();
    let other = FruRecord::new(6, Fru { ppin: 1, ..FRU }, 0);
    let mut damaged = FruRecord::new(7, FRU, 0).as_bytes().to_vec();
    damaged[230] ^= 1;
    for bytes in [record.as_bytes(), other.as_bytes(), &damaged] {
        device.clone().write(bytes).unwrap();
    }
    let before = device.blobs();

    // Without a snapshot nothing is guessed.
    let mut list = ErstList::new(device.duplicate(), BOOT).crossing(crossing());
    assert!(list.load().unwrap().0.pages.is_empty());
    let report = list.crossing_mut().unwrap().report().clone();
    assert_eq!((report.records, report.entries, report.untranslated.len()), (1, 3, 3));
    assert_eq!((report.absent.len(), report.rejected.len()), (1, 1));
    assert_eq!(report.rejected[0].0, 7);

    let mut list = ErstList::new(device.clone(), BOOT).crossing(crossing().translating(snapshot()));
    let (state, _) = list.load().unwrap();
    let pages: Vec<_> = state.pages.keys().copied().collect();
    assert_eq!(pages, [Pfn(0x2_4680), Pfn(0x2_46a0)]);
    assert_eq!(list.crossing_mut().unwrap().report().untranslated[0].0, elsewhere);
    // They are in our own records now, and the kernel's are as they were.
    let (own, _) = ErstList::new(device.clone(), BOOT).load().unwrap();
    assert_eq!(own, state);
    assert!(before.iter().all(|(id, bytes)| device.blobs()[id] == *bytes));
}

#[test]
fn our_pages_reach_the_kernel_and_leave_it() {
    let device = SimulatedDevice::empty("export");
    let mut list =
        ErstList::new(device.clone(), BOOT).crossing(crossing().translating(snapshot()).writing(0));
    list.load().unwrap();
    // One whose machine check is known, one that only has an address.
    list.crossing_mut().unwrap().place(Pfn(0x12_3001), FRU.ppin, poison(1));
    list.commit(&[page(1, RetireState::Pending), page(2, RetireState::Pending)]).unwrap();
    let records = kernels(&device);
    assert_eq!(records.len(), 1);
    assert_eq!(
        (records[0].fru(), records[0].entries().collect::<Vec<_>>()),
        (FRU, vec![poison(1)])
    );
    assert_eq!(ErstList::new(device.clone(), BOOT).load().unwrap().0.pages.len(), 2);
    // Again: nothing new.
    let before = device.blobs();
    list.commit(&[page(1, RetireState::Retired)]).unwrap();
    assert_eq!(device.blobs(), before);

    // Room for eight; the ninth is in our list all the same, and it is said.
    for number in 10..18 {
        let pfn = Pfn(0x12_3000 + number);
        list.crossing_mut().unwrap().place(pfn, FRU.ppin, poison(number));
        list.commit(&[page(number, RetireState::Pending)]).unwrap();
    }
    let report = list.crossing_mut().unwrap().report().clone();
    assert_eq!((report.exported, report.overflowed.len()), (8, 1));
    assert_eq!(report.overflowed[0].0, Pfn(0x12_3011));
    assert_eq!(kernels(&device)[0].entries().count(), 8);
    assert!(list.load().unwrap().0.pages.contains_key(&Pfn(0x12_3011)));

    list.commit(&[unretired(1)]).unwrap();
    assert!(kernels(&device)[0].entries().all(|entry| !entry.is_same_row(&poison(1))));
    assert!(!list.load().unwrap().0.pages.contains_key(&Pfn(0x12_3001)));
}

/// Records of other programs are none of ours, and larger lists take more than one record.
#[test]
fn a_list_over_several_records() {
    let device = SimulatedDevice::empty("several");
    let mut list = ErstList::new(device.clone(), BOOT);
    list.load().unwrap();
    let many: Vec<_> = (0..400).map(|number| page(number, RetireState::Pending)).collect();
    list.commit(&many).unwrap();
    assert_eq!(device.blobs().len(), 4, "two copies of two parts");
    assert!(device.blobs().values().all(|record| record.len() <= 8192));
    list.commit(&(1..400).map(unretired).collect::<Vec<_>>()).unwrap();
    // The second parts are left over.
    assert_eq!(device.blobs().len(), 4);
    let (state, recovery) = list.load().unwrap();
    assert_eq!((state.pages.len(), recovery.is_clean()), (1, true));
    let _: Option<ErrorRecords<SimulatedDevice>> = None;
}
