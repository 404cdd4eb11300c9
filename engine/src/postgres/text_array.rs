//! Arrays of text as statement parameters, written in their wire form value by value.

use std::borrow::Cow;
use std::error::Error;

use bytes::{BufMut as _, BytesMut};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// A value of type `text[]` with one dimension.
#[derive(Debug, Default)]
pub(super) struct TextArray {
    /// The elements, each behind its length.
    elements: Vec<u8>,
    length: i32,
    nulls: bool,
}

impl TextArray {
    /// Adds an element; `None` is NULL.
    pub(super) fn push(&mut self, text: Option<Cow<'_, str>>) {
        self.length += 1;
        match text {
            Some(text) => {
                let length = i32::try_from(text.len()).expect("a value has at most 1 GiB");
                self.elements.extend_from_slice(&length.to_be_bytes());
                self.elements.extend_from_slice(text.as_bytes());
            }
            None => {
                self.nulls = true;
                self.elements.extend_from_slice(&(-1i32).to_be_bytes());
            }
        }
    }
}

impl ToSql for TextArray {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.reserve(20 + self.elements.len());
        // One dimension, whether it has NULLs, the type of its elements, their count, the first index.
        out.put_i32(1);
        out.put_i32(self.nulls.into());
        out.put_u32(Type::TEXT.oid());
        out.put_i32(self.length);
        out.put_i32(1);
        out.extend_from_slice(&self.elements);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT_ARRAY
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_the_library_writes_it() {
        let check = |texts: &[Option<&str>]| {
            let mut array = TextArray::default();
            texts.iter().for_each(|text| array.push(text.map(Cow::Borrowed)));
            let (mut ours, mut theirs) = (BytesMut::new(), BytesMut::new());
            array.to_sql(&Type::TEXT_ARRAY, &mut ours).unwrap();
            texts.to_sql(&Type::TEXT_ARRAY, &mut theirs).unwrap();
            // The library always says that there may be NULLs; the server counts for itself.
            theirs[4..8].copy_from_slice(&ours[4..8]);
            assert_eq!(ours, theirs);
        };
        check(&[Some("5")]);
        check(&[Some(""), None, Some("Straße")]);
    }
}
