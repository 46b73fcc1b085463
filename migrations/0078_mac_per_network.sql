-- Networks share nothing: whether another has the same MAC address is nobody's business.
alter table ports
    drop constraint ports_mac_key,
    add constraint ports_mac_key unique (network_id, mac);
