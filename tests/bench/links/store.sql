-- A shop: a sale with its lines, the stock of each article, the till and the customer. About nine
-- changes in a transaction, 56 % of them updates; some articles sell far more often than others.
CREATE TABLE sale (id bigint PRIMARY KEY, till integer NOT NULL, cashier integer NOT NULL,
    customer bigint, total numeric(10, 2), payment text, receipt text, at timestamptz NOT NULL);
CREATE TABLE sale_line (id bigint PRIMARY KEY, sale bigint NOT NULL, article bigint NOT NULL,
    quantity integer NOT NULL, price numeric(10, 2) NOT NULL, tax numeric(4, 2), at timestamptz);
CREATE TABLE stock (article bigint PRIMARY KEY, name text NOT NULL, supplier text, shelf text,
    quantity integer NOT NULL, price numeric(10, 2), sold_at timestamptz);
CREATE TABLE till (id integer PRIMARY KEY, cash numeric(12, 2) NOT NULL, sales integer NOT NULL,
    at timestamptz);
CREATE TABLE customer (id bigint PRIMARY KEY, name text NOT NULL, points integer NOT NULL,
    seen timestamptz);

INSERT INTO stock SELECT g, 'article number ' || g, 'supplier ' || g % 70, 'aisle ' || g % 30, 5000,
    (99 + g * 37 % 4900) / 100.0, NULL FROM generate_series(1, 10000) g;
INSERT INTO till SELECT g, 0, 0, NULL FROM generate_series(1, 8) g;
INSERT INTO customer SELECT g, 'customer number ' || g, 0, NULL FROM generate_series(1, 5000) g;

CREATE PROCEDURE work(transactions bigint, round bigint) LANGUAGE plpgsql AS $$
DECLARE
    clock timestamptz := '2026-01-02 08:00Z'::timestamptz + round * interval '3 days';
    machine bigint;
    item bigint;
    buyer bigint;
    pieces integer;
    price numeric(10, 2);
    total numeric(10, 2);
    number bigint := 0;
BEGIN
    PERFORM setseed(0.5 / (1 + round));
    FOR t IN 1 .. transactions LOOP
        clock := clock + interval '1 millisecond' * floor(random() * 9000);
        machine := 1 + floor(random() * 8);
        -- Time, machine, number: as many programs draw their keys.
        number := (extract(epoch FROM clock) * 1000)::bigint << 22 | machine << 12;
        total := 0;
        buyer := 1 + floor(random() * 5000);
        FOR i IN 1 .. 3 LOOP
            item := floor(exp(random() * ln(10000::double precision)));
            pieces := 1 + floor(random() * random() * 6);
            price := (99 + item * 37 % 4900) / 100.0;
            total := total + price * pieces;
            INSERT INTO sale_line VALUES (number + i, number, item, pieces, price,
                CASE WHEN item % 3 = 0 THEN 7 ELSE 19 END, clock);
            UPDATE stock SET quantity = quantity - pieces, sold_at = clock WHERE article = item;
        END LOOP;
        INSERT INTO sale VALUES (number, machine, machine * 10 + floor(random() * 3),
            buyer, total, CASE WHEN random() < 0.7 THEN 'card' ELSE 'cash' END,
            'R-' || machine || '-' || t, clock);
        UPDATE till SET cash = cash + total, sales = sales + 1, at = clock WHERE id = machine;
        UPDATE customer SET points = points + floor(total), seen = clock
            WHERE id = buyer;
        COMMIT;
    END LOOP;
END $$;
