//! Between the table and EC2.

pub(crate) mod said;
