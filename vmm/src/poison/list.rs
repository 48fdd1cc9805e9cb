//! Which guest pages are bad, and what became of them.

use std::collections::BTreeMap;

use ras_core::{Gpa, PAGE_SIZE, Pfn};
use serde::{Deserialize, Serialize};

/// Most pages remembered: 1 GiB of bad memory, at which point the host is beyond help.
pub const PAGES_MAX: usize = 1 << 18;

/// The bad pages of a guest, by address.
#[derive(Clone, Debug, Default)]
pub struct PoisonList {
    pages: BTreeMap<Gpa, Page>,
}

/// A bad page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Page {
    /// The page, 4 KiB aligned.
    pub gpa: Gpa,
    /// The host frame behind it, if it was learned.
    pub pfn: Option<Pfn>,
    /// Its data is lost; otherwise it was only said to be failing.
    pub lost: bool,
    /// The guest gave it up; it is never used again.
    pub held: bool,
    /// The guest was told what is known of it now.
    pub told: bool,
    /// The guest touched it after its data was lost.
    pub touched: bool,
}

impl PoisonList {
    /// Notes a page. True if that is news: it was not known, or not known to have lost its data.
    ///
    /// What is known only grows: a frame learned once is not forgotten, lost data stay lost.
    pub fn note(&mut self, gpa: Gpa, pfn: Option<Pfn>, lost: bool) -> bool {
        let gpa = gpa.page();
        if self.pages.len() >= PAGES_MAX && !self.pages.contains_key(&gpa) {
            return false;
        }
        let mut news = false;
        let page = self.pages.entry(gpa).or_insert_with(|| {
            news = true;
            Page { gpa, pfn, lost, held: false, told: false, touched: false }
        });
        page.pfn = page.pfn.or(pfn);
        if lost && !page.lost {
            page.lost = true;
            page.told = false;
            news = true;
        }
        news
    }

    /// The guest is about to be told of a known page. True if that is the first time.
    pub fn tell(&mut self, gpa: Gpa) -> bool {
        self.first(gpa, |page| &mut page.told)
    }

    /// The guest touched a known page. True if that is the first time.
    pub fn touch(&mut self, gpa: Gpa) -> bool {
        self.first(gpa, |page| &mut page.touched)
    }

    /// The guest gave `len` bytes at `gpa` up: bad pages among them are held from now on. Returns
    /// them, ascending.
    pub fn hold(&mut self, gpa: Gpa, len: u64) -> Vec<Gpa> {
        let range = gpa..Gpa(gpa.0.saturating_add(len));
        let pages = self.pages.range_mut(range);
        pages
            .map(|(gpa, page)| {
                page.held = true;
                *gpa
            })
            .collect()
    }

    /// Whether any page of `len` bytes at `gpa` is held.
    #[must_use]
    pub fn is_held(&self, gpa: Gpa, len: u64) -> bool {
        self.within(gpa, len).any(|page| page.held)
    }

    /// The bad pages of `len` bytes at `gpa`, ascending.
    pub fn within(&self, gpa: Gpa, len: u64) -> impl Iterator<Item = &Page> {
        self.pages.range(gpa.page()..Gpa(gpa.0.saturating_add(len))).map(|(_, page)| page)
    }

    /// The page of `gpa`, if it is bad.
    #[must_use]
    pub fn get(&self, gpa: Gpa) -> Option<&Page> {
        self.pages.get(&gpa.page())
    }

    /// The page has a healthy frame again: nothing is wrong with it any more.
    pub fn repaired(&mut self, gpa: Gpa) {
        self.pages.remove(&gpa.page());
    }

    /// A guest that starts anew was told of nothing.
    pub fn forget_told(&mut self) {
        for page in self.pages.values_mut() {
            (page.told, page.touched) = (false, false);
        }
    }

    fn first(&mut self, gpa: Gpa, flag: impl Fn(&mut Page) -> &mut bool) -> bool {
        self.pages.get_mut(&gpa.page()).is_some_and(|page| !std::mem::replace(flag(page), true))
    }

    /// Takes over what was known at a migration's source. An address within a page is its page's.
    pub fn restore(&mut self, pages: Vec<Page>) {
        let whole = |page: Page| (page.gpa.page(), Page { gpa: page.gpa.page(), ..page });
        self.pages = pages.into_iter().take(PAGES_MAX).map(whole).collect();
    }

    /// All bad pages, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &Page> {
        self.pages.values()
    }

    /// Pages whose data the guest lost and may still ask for: what a migration has to mark.
    #[must_use]
    pub fn lost(&self) -> Vec<Gpa> {
        self.iter().filter(|page| page.lost && !page.held).map(|page| page.gpa).collect()
    }
}

/// The pages of `len` bytes at `gpa`, whole pages even where the range is not.
pub fn pages(gpa: Gpa, len: u64) -> impl Iterator<Item = Gpa> {
    let first = gpa.0 / PAGE_SIZE;
    let end = gpa.0.saturating_add(len).div_ceil(PAGE_SIZE);
    (first..end).map(|number| Gpa(number * PAGE_SIZE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knowledge_only_grows() {
        let mut list = PoisonList::default();
        assert!(list.note(Gpa(0x1234), None, false));
        assert!(!list.note(Gpa(0x1000), Some(Pfn(7)), false));
        assert!(list.note(Gpa(0x1fff), None, true), "worse than it was");
        assert!(!list.note(Gpa(0x1000), Some(Pfn(8)), false));
        let page = *list.get(Gpa(0x1001)).expect("known");
        assert_eq!((page.gpa, page.pfn, page.lost), (Gpa(0x1000), Some(Pfn(7)), true));
        assert_eq!(list.lost(), [Gpa(0x1000)]);
    }

    #[test]
    fn the_guest_is_told_once_and_again_when_it_got_worse() {
        let mut list = PoisonList::default();
        assert!(!list.tell(Gpa(0)), "not known");
        list.note(Gpa(0), None, false);
        assert!(list.tell(Gpa(0)));
        assert!(!list.tell(Gpa(5)));
        list.note(Gpa(0), None, true);
        assert!(list.tell(Gpa(0)));
    }

    #[test]
    fn what_was_given_up_is_held() {
        let mut list = PoisonList::default();
        list.note(Gpa(0x20_0000), None, true);
        list.note(Gpa(0x3f_f000), None, false);
        list.note(Gpa(0x40_0000), None, true);
        assert!(!list.is_held(Gpa(0x20_0000), 0x20_0000));
        assert_eq!(list.hold(Gpa(0x20_0000), 0x20_0000), [Gpa(0x20_0000), Gpa(0x3f_f000)]);
        assert!(list.is_held(Gpa(0x3f_f800), 1));
        assert!(!list.is_held(Gpa(0x40_0000), 0x20_0000));
        assert_eq!(list.lost(), [Gpa(0x40_0000)]);
    }

    #[test]
    fn pages_that_arrive_are_whole() {
        let mut other = PoisonList::default();
        other.note(Gpa(0x1000), None, true);
        let page = Page { gpa: Gpa(0x1234), ..*other.get(Gpa(0x1000)).expect("known") };
        let mut list = PoisonList::default();
        list.restore(vec![page]);
        assert_eq!(list.lost(), [Gpa(0x1000)]);
    }

    #[test]
    fn ranges_cover_whole_pages() {
        assert_eq!(pages(Gpa(0x1fff), 2).collect::<Vec<_>>(), [Gpa(0x1000), Gpa(0x2000)]);
        assert_eq!(pages(Gpa(u64::MAX - 1), 100).count(), 1);
    }
}
