//! The catalog, as the engine reads it.

use landfall_engine::postgres::catalog::{
    Catalog, ClaimIndex, ClaimPart, ColumnConstraint, ForeignKey, KeyColumn, LocalColumn,
    LocalTable, RelationKind, ReplicaIdentity, UniqueIndex,
};
use landfall_protocol::schema::{ColumnId, TableDef, TableName};

use super::cluster::Cluster;
use super::error::PgError;
use super::heap::{Table, TableNo};
use super::instance::{Instance, OWN_TABLES};
use super::options::{Check, Reference, TableSpec};
use super::pgoutput::{oid, type_oid};

/// How values of all types are compared.
const EQUALS: &str = "OPERATOR(pg_catalog.=)";

impl Cluster {
    /// Reads what the catalog says of the published tables, at one moment.
    ///
    /// # Errors
    /// The server is down.
    pub(crate) async fn catalog(&self) -> Result<Catalog, PgError> {
        self.pause().await;
        let server = self.lock();
        server.is_up.then_some(()).ok_or(PgError::Down)?;
        let numbered = server.tables.iter().enumerate().skip(OWN_TABLES);
        let published = numbered.filter(|(_, table)| table.spec.is_published);
        let local = |(place, table): (usize, &Table)| local(&server, TableNo(place), table);
        let mut tables: Vec<LocalTable> = published.map(local).collect();
        tables.sort_by(|a, b| a.def.name.cmp(&b.def.name));
        Ok(Catalog { tables, missing: Vec::new() })
    }
}

fn local(server: &Instance, number: TableNo, table: &Table) -> LocalTable {
    let def = TableDef::clone(&table.spec.def);
    let key_column = |id: &ColumnId| KeyColumn {
        name: name_of(&def, *id),
        equals: EQUALS.to_owned(),
        ambiguous: None,
        nondeterministic: None,
    };
    let column = |(place, column): (usize, &landfall_protocol::schema::ColumnDef)| LocalColumn {
        number: place as i16 + 1,
        type_oid: type_oid(column.kind()),
        cast: column.type_name.clone(),
        unfit_type: None,
        is_not_null: table.spec.is_not_null(ColumnId(place as u16)),
        default: default(&table.spec, ColumnId(place as u16), &column.type_name),
        identity: None,
        sequence: None,
    };
    LocalTable {
        oid: oid(number),
        kind: RelationKind::Table,
        is_heap: true,
        is_unlogged: false,
        is_partition: false,
        is_child: false,
        has_children: false,
        partitions: Vec::new(),
        replica_identity: ReplicaIdentity::Full,
        has_row_security: false,
        key_is_deferrable: false,
        key_columns: def.key.iter().map(key_column).collect(),
        columns: def.columns.iter().enumerate().map(column).collect(),
        generated: Vec::new(),
        generated_key: None,
        foreign_keys: foreign_keys(server, table),
        referenced_by: referenced_by(server, number),
        unique: unique(&table.spec),
        checks: table.spec.checks.iter().map(|check| constraint(&def, check)).collect(),
        exclusions: Vec::new(),
        claims: claims(&table.spec),
        triggers: Vec::new(),
        def,
    }
}

/// A CHECK as PostgreSQL prints it.
fn constraint(def: &TableDef, check: &Check) -> ColumnConstraint {
    let (columns, expression) = match check {
        Check::Within(column, least, most) => {
            let name = name_of(def, *column);
            let expression = format!("(({name} >= {least}) AND ({name} <= {most}))");
            (vec![name], expression)
        }
        Check::Ordered(low, high) => {
            let [low, high] = [low, high].map(|column| name_of(def, *column));
            let expression = format!("({low} <= {high})");
            (vec![low, high], expression)
        }
    };
    let name = format!("{}_{}_check", def.name.name, columns.join("_"));
    ColumnConstraint { name, columns, expression }
}

fn foreign_keys(server: &Instance, table: &Table) -> Vec<ForeignKey> {
    let parents = table.spec.parents.iter();
    let foreign_key = |Reference { columns, parent, on_delete }: &Reference| {
        let parent = &server.tables[parent + OWN_TABLES].spec.def;
        let columns: Vec<String> = columns.iter().map(|id| name_of(&table.spec.def, *id)).collect();
        ForeignKey {
            name: format!("{}_{}_fkey", table.spec.def.name.name, columns.join("_")),
            equals: vec![EQUALS.to_owned(); columns.len()],
            set_columns: columns.clone(),
            columns,
            parent: parent.name.clone(),
            parent_columns: parent.key.iter().map(|id| name_of(parent, *id)).collect(),
            on_delete: *on_delete,
            names_primary_key: true,
        }
    };
    parents.map(foreign_key).collect()
}

/// A default as PostgreSQL prints it.
fn default(spec: &TableSpec, column: ColumnId, type_name: &str) -> Option<String> {
    let text = spec.defaults.get(&column)?.text()?;
    Some(format!("'{text}'::{type_name}"))
}

fn index_name(spec: &TableSpec, column: &str) -> String {
    format!("{}_{column}_key", spec.def.name.name)
}

fn unique(spec: &TableSpec) -> Vec<UniqueIndex> {
    let index = |(column, _): &(ColumnId, _)| {
        let column = name_of(&spec.def, *column);
        UniqueIndex {
            name: index_name(spec, &column),
            columns: vec![column],
            has_expressions: false,
            is_partial: false,
            is_deferrable: false,
            nulls_are_equal: false,
        }
    };
    spec.unique.iter().map(index).collect()
}

fn claims(spec: &TableSpec) -> Vec<ClaimIndex> {
    let index = |(column, loser): &(ColumnId, _)| {
        let column = name_of(&spec.def, *column);
        let (expression, operator) = (format!("({column})"), Some(EQUALS.to_owned()));
        ClaimIndex {
            name: index_name(spec, &column),
            excludes: false,
            parts: vec![ClaimPart { expression, operator }],
            predicate: None,
            nulls_are_equal: false,
            is_deferrable: false,
            columns: vec![column],
            generated: Vec::new(),
            collations: Vec::new(),
            loser: *loser,
        }
    };
    spec.unique.iter().map(index).collect()
}

fn referenced_by(server: &Instance, parent: TableNo) -> Vec<TableName> {
    let points = |table: &&Table| {
        let mut parents = table.spec.parents.iter();
        parents.any(|reference| reference.parent + OWN_TABLES == parent.0)
    };
    let children = server.tables.iter().filter(points);
    children.map(|table| table.spec.def.name.clone()).collect()
}

fn name_of(def: &TableDef, id: ColumnId) -> String {
    def.columns[usize::from(id.0)].name.clone()
}
