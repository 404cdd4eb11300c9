//! The catalog, as the engine reads it.

use landfall_engine::postgres::catalog::{
    Catalog, ColumnConstraint, ForeignKey, KeyColumn, LocalColumn, LocalTable, OnDelete,
    RelationKind, ReplicaIdentity,
};
use landfall_protocol::schema::{ColumnId, TableDef, TableName};

use super::cluster::Cluster;
use super::error::PgError;
use super::heap::{Table, TableNo};
use super::instance::{Instance, OWN_TABLES};
use super::options::Check;
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
        is_not_null: def.is_key(ColumnId(place as u16)),
        default: None,
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
        unique: Vec::new(),
        checks: table.spec.checks.iter().map(|check| constraint(&def, check)).collect(),
        exclusions: Vec::new(),
        claims: Vec::new(),
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
    let foreign_key = |(columns, parent): &(Vec<ColumnId>, usize)| {
        let parent = &server.tables[parent + OWN_TABLES].spec.def;
        let columns: Vec<String> = columns.iter().map(|id| name_of(&table.spec.def, *id)).collect();
        ForeignKey {
            name: format!("{}_{}_fkey", table.spec.def.name.name, columns.join("_")),
            equals: vec![EQUALS.to_owned(); columns.len()],
            set_columns: columns.clone(),
            columns,
            parent: parent.name.clone(),
            parent_columns: parent.key.iter().map(|id| name_of(parent, *id)).collect(),
            on_delete: OnDelete::NoAction,
            names_primary_key: true,
        }
    };
    parents.map(foreign_key).collect()
}

fn referenced_by(server: &Instance, parent: TableNo) -> Vec<TableName> {
    let points = |table: &&Table| {
        let mut parents = table.spec.parents.iter();
        parents.any(|(_, place)| place + OWN_TABLES == parent.0)
    };
    let children = server.tables.iter().filter(points);
    children.map(|table| table.spec.def.name.clone()).collect()
}

fn name_of(def: &TableDef, id: ColumnId) -> String {
    def.columns[usize::from(id.0)].name.clone()
}
