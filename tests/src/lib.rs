//! Stories over the whole workspace; everything lives in the test binary `ras`.
