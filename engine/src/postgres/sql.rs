//! Names, texts and errors of SQL.

use std::error::Error as _;

use landfall_protocol::schema::TableName;

/// Session settings under which a value prints and reads as the same text in every database. What
/// writes and what reads values both set all of them: a database may have any of them otherwise.
pub const TEXT_SETTINGS: [(&str, &str); 9] = [
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    // `money` is a number of cents, which this prints with two decimals in every country.
    ("lc_monetary", "C"),
    // `document` refuses what is not one, although it is stored.
    ("xmloption", "content"),
    // Off, it reads a NULL in an array as a word.
    ("array_nulls", "on"),
    // Names of objects print as far as the path does not lead to them.
    ("search_path", "pg_catalog"),
];

/// An identifier in double quotes, which is right for every name, keywords included.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table's qualified name, quoted.
#[must_use]
pub fn quote_table(table: &TableName) -> String {
    format!("{}.{}", quote_identifier(&table.schema), quote_identifier(&table.name))
}

/// A text in single quotes, with `standard_conforming_strings` on or off.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// What went wrong, with its SQLSTATE. tokio-postgres itself only says "db error". Never contains
/// the error's detail, in which PostgreSQL repeats values.
#[must_use]
pub fn describe(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(db), _) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!(quote_table(&TableName::new("public", "a\"b")), "\"public\".\"a\"\"b\"");
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\'b"), "E'a\\\\''b'");
    }
}
