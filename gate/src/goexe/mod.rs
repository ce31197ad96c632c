//! goexe
