-- What the bytes of an image need of a host: an architecture, a CPU baseline, firmware. Instances take it over as they are made.
alter table images add column required_traits text[] not null default '{}';
