//! One statement on a SQLite file, and the rows of its answer.

use std::{borrow::Cow, sync::Arc};

use rusqlite::{
    CachedStatement, Connection,
    types::{FromSql, ValueRef},
};

use super::{
    Error,
    sql::{Value, lite_time},
};

/// A statement and its arguments, for whichever thread.
pub struct Statement {
    sql: String,
    args: Vec<rusqlite::types::Value>,
}

impl Statement {
    pub fn new(sql: &str, args: &[Value]) -> Self {
        Self {
            sql: numbered(sql).into_owned(),
            args: args.iter().map(bound).collect(),
        }
    }

    pub fn execute(&self, connection: &Connection) -> Result<u64, Error> {
        Ok(self.bind(connection)?.raw_execute()? as u64)
    }

    pub fn fetch(&self, connection: &Connection) -> Result<Vec<FileRow>, Error> {
        let mut statement = self.bind(connection)?;
        let (mut found, mut rows) = (Vec::new(), statement.raw_query());
        let mut columns: Option<Arc<[String]>> = None;
        while let Some(row) = rows.next()? {
            // Not before the first row: the schema may have changed since the statement was prepared.
            let names = || row.as_ref().column_names().into_iter().map(Into::into).collect();
            let columns = columns.get_or_insert_with(names);
            let values = (0..columns.len()).map(|at| row.get(at));
            found.push(FileRow {
                columns: columns.clone(),
                values: values.collect::<rusqlite::Result<_>>()?,
            });
        }
        Ok(found)
    }

    fn bind<'c>(&self, connection: &'c Connection) -> rusqlite::Result<CachedStatement<'c>> {
        let mut statement = connection.prepare_cached(&self.sql)?;
        for (at, arg) in self.args.iter().enumerate() {
            statement.raw_bind_parameter(at + 1, arg)?;
        }
        Ok(statement)
    }
}

/// To SQLite `$1` is a name, and `?1` the first place.
fn numbered(sql: &str) -> Cow<'_, str> {
    if !sql.contains('$') {
        return Cow::Borrowed(sql);
    }
    let mut chars = sql.chars().peekable();
    let mut text = String::with_capacity(sql.len());
    while let Some(char) = chars.next() {
        let is_place = char == '$' && chars.peek().is_some_and(char::is_ascii_digit);
        text.push(if is_place { '?' } else { char });
    }
    Cow::Owned(text)
}

fn bound(value: &Value) -> rusqlite::types::Value {
    use rusqlite::types::Value::{Blob, Integer, Null, Text};
    match value {
        Value::Int(value) => value.map_or(Null, Integer),
        Value::Text(value) => value.clone().map_or(Null, Text),
        Value::Bytes(value) => value.clone().map_or(Null, Blob),
        Value::Uuid(value) => value.map_or(Null, |id| Blob(id.as_bytes().into())),
        Value::Time(value) => value.map_or(Null, |time| Text(lite_time(time))),
    }
}

/// One row of an answer.
pub struct FileRow {
    columns: Arc<[String]>,
    values: Vec<rusqlite::types::Value>,
}

impl FileRow {
    #[cfg(test)]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    pub fn get<T: FromSql>(&self, column: &str) -> Result<T, Error> {
        let unread = |why: String| Error::Refused(format!("column {column}: {why}"));
        let at = self.columns.iter().position(|name| name == column);
        let value = at.and_then(|at| self.values.get(at));
        let value = value.ok_or_else(|| unread("there is none of this name".into()))?;
        T::column_result(ValueRef::from(value)).map_err(|error| unread(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_numbered_and_nothing_else_is_touched() {
        assert_eq!(numbered("select $1, $12 from t"), "select ?1, ?12 from t");
        assert_eq!(numbered("select '$.a', '5 $'"), "select '$.a', '5 $'");
        assert!(matches!(numbered("values (?,?)"), Cow::Borrowed(_)));
    }
}
