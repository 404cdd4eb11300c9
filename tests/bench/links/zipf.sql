-- Readings of devices: few of them report often, most of them rarely. The rank of a device is drawn so that
-- the n-th reports about 1/n times as often as the first.
CREATE TABLE device (id integer PRIMARY KEY, ward integer NOT NULL, model text, serial text, note text,
    reading integer NOT NULL, read_at timestamptz NOT NULL, limit_low integer, limit_high integer);

INSERT INTO device SELECT g, g % 40, 'model ' || g % 12, md5(g::text), NULL, 0, now(), 10, 90
    FROM generate_series(1, 100000) g;

CREATE PROCEDURE work(transactions bigint, round bigint) LANGUAGE plpgsql AS $$
DECLARE
    device_id integer;
BEGIN
    PERFORM setseed(0.5 / (1 + round));
    FOR t IN 1 .. 2 * transactions LOOP
        device_id := floor(power(100000, random()));
        UPDATE device SET reading = floor(random() * 1000), read_at = clock_timestamp()
            WHERE id = device_id;
        IF t % 2 = 0 THEN
            COMMIT;
        END IF;
    END LOOP;
END $$;
