//! A program's own tables, as migrations that are compiled into it.

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// The migrations of a program: the same numbers for each database. [`migrations!`](crate::migrations!) makes them.
#[derive(Debug, Clone, Copy)]
pub struct Migrations {
    /// For SQLite.
    pub sqlite: &'static [MigrationFile],
    /// For PostgreSQL.
    pub postgres: &'static [MigrationFile],
}

/// A file of migrations.
#[derive(Debug, Clone, Copy)]
pub struct MigrationFile {
    /// The file's name without `.sql`: `0002_service` is number 2.
    pub name: &'static str,
    /// Its statements.
    pub sql: &'static str,
}

/// Compiles migrations into the program, as [`Migrations`]: the files of these names in `sqlite` and `postgres` below a
/// directory. The directory is relative to the source file that calls this.
#[macro_export]
macro_rules! migrations {
    ($directory:literal, [$($name:literal),+ $(,)?]) => {
        $crate::Migrations {
            sqlite: &[$($crate::MigrationFile {
                name: $name,
                sql: include_str!(concat!($directory, "/sqlite/", $name, ".sql")),
            }),+],
            postgres: &[$($crate::MigrationFile {
                name: $name,
                sql: include_str!(concat!($directory, "/postgres/", $name, ".sql")),
            }),+],
        }
    };
}

/// Reads the names of files.
///
/// # Errors
/// The name that is no number, underscore and description.
pub(crate) fn migrator(files: &[MigrationFile]) -> Result<Migrator, String> {
    let migrations = files.iter().map(|file| {
        let (number, description) = file.name.split_once('_')?;
        Some(Migration::new(
            number.parse().ok()?,
            description.replace('_', " ").into(),
            MigrationType::Simple,
            file.sql.into_sql_str(),
            file.sql.starts_with("-- no-transaction"),
        ))
    });
    let named = migrations.zip(files).map(|(migration, file)| {
        migration.ok_or_else(|| format!("migration `{}` has no number in its name", file.name))
    });
    Ok(Migrator::with_migrations(named.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::{MigrationFile, migrator};

    #[test]
    fn migration_has_the_number_in_its_name() {
        let file = |name, sql| MigrationFile { name, sql };
        let read = migrator(&[
            file("0010_audit_by_object", "-- no-transaction\nSELECT 1"),
            file("0002_service", "SELECT 2"),
        ]);
        let read = read.unwrap();
        let read = read.iter().map(|m| (m.version, &*m.description, m.no_tx));
        let expected = [(2, "service", false), (10, "audit by object", true)];
        assert_eq!(read.collect::<Vec<_>>(), expected);
        assert!(migrator(&[file("service", "")]).is_err());
    }
}
