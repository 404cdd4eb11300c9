CREATE TYPE mood AS ENUM ('calm', 'rough');
CREATE DOMAIN knots AS int CHECK (VALUE >= 0);
CREATE TABLE whole (id int PRIMARY KEY, name varchar(20), price numeric(10, 2), mood mood,
                    speed knots, note text);
ALTER TABLE whole ALTER note SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
CREATE TABLE keyed (a int, b text, c jsonb, PRIMARY KEY (a, b));
CREATE TABLE indexed (code text NOT NULL, v int);
CREATE UNIQUE INDEX indexed_code ON indexed (code);
ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_code;
CREATE TABLE parent (id serial PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY REFERENCES parent);
CREATE SCHEMA "Größe";
CREATE TABLE "Größe"."Tab ""1""" ("Spalte ä" text PRIMARY KEY, empty text);
