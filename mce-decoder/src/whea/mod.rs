//! Windows' hardware error events and the records inside of them.
