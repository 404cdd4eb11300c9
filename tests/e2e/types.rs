//! Every type arrives as it was sent, whichever version of PostgreSQL sends and receives it, and
//! whatever shape the table has.

mod matrix;
mod values;
mod versions;
