//! Every type arrives as it was sent, whichever version of PostgreSQL sends and receives it, and
//! whatever shape the table has.

mod matrix;
mod partitions;
mod shapes;
mod values;
mod versions;
