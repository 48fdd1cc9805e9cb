//! What is written is read back as the same pages, in every form.

use std::collections::BTreeSet;

use proptest::prelude::*;
use ras_core::{
    ErrorSource, Location, Pfn, PfnRange, RetireReason, RetireState, RetiredPage, Severity,
    Timestamp,
};

use super::export::{Exported, Form, Quote, export};
use super::import::{Bare, Item, parse};

const FORMS: [Form; 7] = [
    Form::Json,
    Form::Memmap,
    Form::GrubCutmem,
    Form::GrubBadram,
    Form::Xen,
    Form::Bcdedit,
    Form::Memtest,
];

fn page(pfn: u64, reason: RetireReason) -> RetiredPage {
    RetiredPage {
        pfn: Pfn(pfn),
        reason,
        state: RetireState::Retired,
        severity: Severity::Srao,
        source: ErrorSource::MceRecord,
        since: Timestamp(pfn),
        updated: Timestamp(pfn + 1),
        attempts: 1,
        location: Location {
            socket: Some(1),
            fru: Some("DIMM \"A\"".into()),
            ..Location::default()
        },
        dimm: None,
        epoch: None,
        diagnosis: "0x1000 memmap=1K$0x2000 \u{1b}".into(),
        outcome: "host: offline".into(),
    }
}

/// Scattered pages and runs of neighbours, near and far.
fn pages() -> impl Strategy<Value = Vec<RetiredPage>> {
    let reason = prop_oneof![
        Just(RetireReason::Uncorrected),
        Just(RetireReason::CorrectedThreshold),
        Just(RetireReason::Operator),
    ];
    let start = prop_oneof![0_u64..0x400, 0_u64..1 << 24, (1_u64 << 40) - 64..(1 << 40) - 32];
    proptest::collection::btree_map(start, (1_u64..24, reason), 1..120).prop_map(|runs| {
        let mut seen = BTreeSet::new();
        let all = runs.into_iter().flat_map(|(start, (count, reason))| {
            (start..start + count).map(move |pfn| page(pfn, reason))
        });
        all.filter(|page| seen.insert(page.pfn)).collect()
    })
}

fn set(ranges: &[PfnRange]) -> BTreeSet<Pfn> {
    ranges.iter().flat_map(|range| range.iter()).collect()
}

fn read(exported: &Exported) -> BTreeSet<Pfn> {
    let imported = parse(exported.text.as_bytes(), Bare::Addresses);
    assert_eq!(imported.refused, [], "{}", exported.text);
    let pages = imported.items.into_iter().flat_map(|item| match item {
        Item::Range(range) => range.iter().collect::<Vec<_>>(),
        Item::Page(page) => vec![page.pfn],
    });
    pages.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Exactly the listed pages but those named as left over, and as many more as was said.
    #[test]
    fn export_then_import_is_the_same_list(
        pages in pages(),
        quote in prop::sample::select(vec![Quote::Plain, Quote::GrubCfg, Quote::DefaultGrub]),
        ranges_max in prop_oneof![Just(None), (1_u32..40).prop_map(Some)],
    ) {
        let listed: BTreeSet<Pfn> = pages.iter().map(|page| page.pfn).collect();
        for form in FORMS {
            let exported = export(&pages, form, quote, ranges_max);
            let left_over = set(&exported.left_over);
            let read = read(&exported);
            prop_assert!(left_over.is_subset(&listed), "{form:?}");
            let missing: BTreeSet<Pfn> = listed.difference(&read).copied().collect();
            prop_assert_eq!(&missing, &left_over, "{:?}: lost without a word", form);
            let more = read.difference(&listed).count() as u64;
            prop_assert_eq!(more, exported.filler_pages, "{:?}: more than was said", form);
            if !left_over.is_empty() {
                prop_assert!(exported.notes.iter().any(|note| note.contains("did not fit")));
            }
        }
    }

    /// Our own form loses nothing else either.
    #[test]
    fn json_keeps_what_is_known_of_each_page(pages in pages()) {
        let exported = export(&pages, Form::Json, Quote::Plain, None);
        let items = parse(exported.text.as_bytes(), Bare::Addresses).items;
        let expect: Vec<Item> = pages.into_iter().map(|page| Item::Page(Box::new(page))).collect();
        prop_assert_eq!(items, expect);
    }
}

fn scattered(count: u64) -> Vec<RetiredPage> {
    (0..count).map(|n| page(0x10_0000 + n * 100, RetireReason::CorrectedThreshold)).collect()
}

#[test]
fn the_forms_are_those_of_the_manuals() {
    let pages =
        [0x12345, 0x20000, 0x20001, 0x20002].map(|pfn| page(pfn, RetireReason::Uncorrected));
    let text = |form, quote| {
        let text = export(&pages, form, quote, None).text;
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("rem "));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    assert_eq!(text(Form::Memmap, Quote::Plain), "memmap=4K$0x12345000,12K$0x20000000\n");
    assert_eq!(text(Form::Memmap, Quote::GrubCfg), "memmap=4K\\$0x12345000,12K\\$0x20000000\n");
    assert_eq!(
        text(Form::Memmap, Quote::DefaultGrub),
        "GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX memmap=4K\\\\\\$0x12345000,12K\\\\\\$0x20000000\"\n"
    );
    assert_eq!(
        text(Form::GrubCutmem, Quote::Plain),
        "cutmem 0x12345000 0x12346000\ncutmem 0x20000000 0x20003000\n"
    );
    assert_eq!(
        text(Form::GrubBadram, Quote::Plain),
        "badram 0x0000000012345000,0xfffffffffffff000,0x0000000020000000,0xffffffffffffe000,\
         0x0000000020002000,0xfffffffffffff000\n"
    );
    assert_eq!(text(Form::Xen, Quote::Plain), "badpage=0x12345,0x20000-0x20002\n");
    assert_eq!(
        text(Form::Bcdedit, Quote::Plain),
        "bcdedit /set {badmemory} badmemorylist 0x12345 0x20000 0x20001 0x20002\n\
         bcdedit /set badmemoryaccess No\n"
    );
    assert!(
        text(Form::Memtest, Quote::Plain)
            .starts_with("badram=0x0000000012345000,0xfffffffffffff000,")
    );
}

#[test]
fn limits_hold_and_the_worst_pages_are_kept() {
    let mut pages = scattered(3000);
    pages[1500].reason = RetireReason::Uncorrected;
    let worst = pages[1500].pfn;
    for form in FORMS.into_iter().filter(|form| *form != Form::Json) {
        let exported = export(&pages, form, Quote::Plain, None);
        assert!(!exported.left_over.is_empty(), "{form:?}");
        assert!(read(&exported).contains(&worst), "{form:?}");
    }
    let lines = |form| export(&pages, form, Quote::Plain, None).text;
    assert!(lines(Form::Memmap).len() < 1536);
    assert!(lines(Form::Xen).len() <= "badpage=".len() + 99 + 1);
    assert!(lines(Form::Bcdedit).lines().all(|line| line.len() <= 8191));
    let notes = export(&pages, Form::Memmap, Quote::Plain, None).notes.join("\n");
    assert!(notes.contains("random place") && notes.contains("did not fit"), "{notes}");
}

#[test]
fn entries_that_keep_no_page_out_of_use_are_counted_and_left_out() {
    let mut pages = scattered(2);
    pages[0].state = RetireState::Expired;
    for form in FORMS.into_iter().filter(|form| *form != Form::Json) {
        let exported = export(&pages, form, Quote::Plain, None);
        assert_eq!(read(&exported), BTreeSet::from([pages[1].pfn]), "{form:?}");
        assert!(exported.notes.iter().any(|note| note.starts_with("1 entries")), "{form:?}");
    }
    assert_eq!(export(&[], Form::Memmap, Quote::Plain, None).text, "");
}

/// What a shell and GRUB make of the line for `/etc/default/grub` is what the kernel has to see.
#[test]
fn a_shell_takes_one_layer_of_quotes_off_and_grub_the_other() {
    let exported = export(&scattered(2), Form::Memmap, Quote::DefaultGrub, None);
    let script = format!("{}printf %s \"$GRUB_CMDLINE_LINUX\"", exported.text);
    let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    let in_grub_cfg = String::from_utf8(output.stdout).unwrap();
    let for_grub = export(&scattered(2), Form::Memmap, Quote::GrubCfg, None).text;
    assert_eq!(in_grub_cfg.trim(), for_grub.trim());
}
