-- What:  what the operator says between phases 1 and 2 of world.dump: whose tenant the organization belongs to that points nowhere.
insert into tenancy.organization_mapping (organization_id, tenant_id)
values ('7e000000-1111-4000-8000-000000000014', '7d000000-1111-4000-8000-000000000003')
on conflict do nothing;
