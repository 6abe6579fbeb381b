//! Rules of ring changes, one each.
