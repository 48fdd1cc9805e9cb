//! The image, kept still and taken apart.

use std::sync::Arc;

use proptest::prelude::*;
use ras_core::{
    Dimm, DimmIdentity, DimmLocation, ErrorSource, Location, MapEpoch, Pfn, RetireReason,
    RetireState, RetiredPage, Severity, Timestamp,
};
use ras_store_format::image::{self, HEADER_SIZE, PAGE_SIZE_MAX, kept};
use ras_store_format::{Change, ChangeKind, Damage, Entry, Image, ImageFault, State, crc32c};

fn page(number: u64) -> RetiredPage {
    RetiredPage {
        pfn: Pfn(0x12_3000 + number * 7),
        reason: RetireReason::Uncorrected,
        state: RetireState::Retired,
        severity: Severity::Srao,
        source: ErrorSource::MceRecord,
        since: Timestamp(1_700_000_000_123_456_789 + number * 1_000_000_000_000),
        updated: Timestamp(1_800_000_000_000_000_000),
        attempts: 3,
        location: Location {
            cpu: Some(4),
            socket: Some(1),
            imc: Some(2),
            channel: Some(3),
            dimm: DimmLocation {
                rank: Some(0),
                bank_group: Some(1),
                bank: Some(2),
                chip: Some(1),
                row: Some(0x1_2345),
                column: Some(0x3f8),
                ..DimmLocation::default()
            },
            fru: Some("DIMM_B2".into()),
            ..Location::default()
        },
        dimm: Some(Arc::new(Dimm {
            identity: DimmIdentity::new("Maker", "PART-1", "0001"),
            locator: "B2".into(),
            bank_locator: "NODE 1".into(),
            size: 32 << 30,
        })),
        epoch: Some(MapEpoch(0x1c2c_78a2_8621_f86c)),
        diagnosis: "an uncorrected error".into(),
        outcome: "offline".into(),
    }
}

fn state(pages: impl IntoIterator<Item = RetiredPage>) -> State {
    let mut state = State::default();
    pages.into_iter().for_each(|page| state.apply(Entry::Page(Box::new(page))));
    state
}

fn image(state: &State) -> Image {
    Image { generation: 7, boot: [0x5a; 16], boot_bytes: 1234, state: kept(state) }
}

#[test]
fn what_goes_in_comes_out() {
    let mut before = state((0..300).map(page));
    for number in 0..3 {
        before.apply(Entry::Damaged(Damage {
            time: Timestamp(number),
            detail: format!("finding {number}"),
            quarantined: String::new(),
        }));
    }
    let since = page(5).since;
    let suspended = Change {
        pfn: page(5).pfn,
        since,
        time: Timestamp(since.0 + 1),
        kind: ChangeKind::suspending(RetireState::Expired).unwrap(),
        logged: true,
        who: "rule".into(),
        note: "the module is gone".into(),
    };
    before.apply(Entry::Changed(suspended.clone()));
    // Another one of the same address, from the module that is there now.
    before.apply(Entry::Page(Box::new(RetiredPage { since: Timestamp(since.0 + 2), ..page(5) })));
    let image = image(&before);
    let after = Image::decode(&image.encode().unwrap()).unwrap();
    assert_eq!(after, image);
    assert_eq!(kept(&after.state), after.state, "what is kept is kept again");
    assert_eq!(after.state.pages.len(), 300);
    assert_eq!(after.state.suspended[&(suspended.pfn, since)].page.state, RetireState::Expired);
    assert_eq!(after.state.damage.len(), image::DAMAGE_KEPT);
    let found = &after.state.pages[&Pfn(0x12_3000)];
    assert_eq!((found.dimm.clone(), found.epoch), (page(0).dimm, page(0).epoch));
    assert_eq!(found.location, page(0).location);
    assert_eq!(found.state, RetireState::Pending, "who reads it acts anew");
    assert_eq!(
        Image::decode(&Image { state: State::default(), ..image }.encode().unwrap())
            .unwrap()
            .state
            .pages
            .len(),
        0
    );
}

/// Version 1 never changes: these bytes are read for ever.
#[test]
fn the_bytes_of_version_1() {
    let bytes = image(&state([page(0), page(1)])).encode().unwrap();
    let expected = include_bytes!("golden/image_1.bin");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/image_1.bin");
        std::fs::write(path, &bytes).unwrap();
        return;
    }
    assert_eq!(bytes, expected);
    assert_eq!(Image::decode(expected).unwrap(), image(&state([page(0), page(1)])));
}

#[test]
fn every_flip_and_every_cut_is_damage() {
    let bytes = image(&state((0..20).map(page))).encode().unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert_eq!(Image::decode(&damaged), Err(ImageFault::Damaged), "byte {at} bit {bit}");
        }
        assert_eq!(Image::decode(&bytes[..at]), Err(ImageFault::Damaged), "cut to {at}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(Image::decode(&longer), Err(ImageFault::Damaged));
}

#[test]
fn a_newer_version_is_not_damage() {
    let mut bytes = image(&state([page(0)])).encode().unwrap();
    let seal = |bytes: &mut Vec<u8>| {
        let checksum = crc32c(&bytes[12..]).to_le_bytes();
        bytes[8..12].copy_from_slice(&checksum);
    };
    bytes[12] = 2;
    seal(&mut bytes);
    assert_eq!(Image::decode(&bytes), Err(ImageFault::Newer { version: 2 }));
    bytes[12] = 1;
    *bytes.last_mut().unwrap() ^= 0x40;
    seal(&mut bytes);
    assert_eq!(Image::decode(&bytes), Err(ImageFault::Newer { version: 1 }), "an unknown index");
}

#[test]
fn how_much_fits() {
    // Usual pages: one of some modules, rows and columns known.
    let bytes = image(&state((0..1000).map(page))).encode().unwrap();
    println!("{} bytes for 1000 pages", bytes.len());
    assert!(bytes.len() < 30 * 1000, "{}", bytes.len());

    // The worst: nothing in common, every text as long as can be.
    let text = |number: u64, which: &str| format!("{which}{number:>253}");
    let worst = |number: u64| {
        let dimm = Dimm {
            identity: DimmIdentity {
                manufacturer: Some(text(number, "ma")),
                part: Some(text(number, "pa")),
                serial: Some(text(number, "se")),
            },
            locator: text(number, "lo"),
            bank_locator: text(number, "ba"),
            size: u64::MAX,
        };
        let wide = Some(u16::MAX);
        RetiredPage {
            pfn: Pfn(number << 44),
            since: Timestamp(if number == 1 { 0 } else { u64::MAX }),
            location: Location {
                cpu: Some(u32::MAX),
                socket: Some(u32::MAX),
                imc: wide,
                channel: Some(u8::MAX),
                dimm: DimmLocation {
                    node: wide,
                    card: wide,
                    module: wide,
                    rank: wide,
                    bank_group: Some(u8::MAX),
                    bank: wide,
                    chip: Some(u8::MAX),
                    device: wide,
                    row: Some(u32::MAX),
                    column: Some(u32::MAX),
                    bit_position: wide,
                    module_handle: wide,
                },
                fru: Some(text(number, "fr").into()),
                pci: None,
            },
            dimm: Some(Arc::new(dimm)),
            epoch: Some(MapEpoch(number)),
            ..page(number)
        }
    };
    let bytes = image(&state((1..=200).map(worst))).encode().unwrap();
    assert!(bytes.len() <= HEADER_SIZE + 60 + 200 * PAGE_SIZE_MAX, "{}", bytes.len());
}

proptest! {
    #[test]
    fn no_input_is_a_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
        sealed in any::<bool>(),
        pages in 0u8..8,
    ) {
        if sealed && bytes.len() >= HEADER_SIZE {
            bytes[..8].copy_from_slice(b"RASIMAGE");
            bytes[12..16].copy_from_slice(&[1, 0, 0, 0]);
            let length = u32::try_from(bytes.len()).unwrap();
            bytes[24..28].copy_from_slice(&length.to_le_bytes());
            bytes[28..32].copy_from_slice(&[pages, 0, 0, 0]);
            let checksum = crc32c(&bytes[12..]).to_le_bytes();
            bytes[8..12].copy_from_slice(&checksum);
        }
        if let Ok(image) = Image::decode(&bytes) {
            prop_assert_eq!(image.state.pages.len(), usize::from(pages));
        }
    }
}
