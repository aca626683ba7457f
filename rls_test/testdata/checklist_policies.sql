-- The policies of the checklist, word for word: "Update RLS Policies for Agents" and "Update RLS for Conversations".

CREATE POLICY "users_view_accessible_agents"
  ON agents FOR SELECT
  TO authenticated
  USING (
    deleted_at IS NULL
    AND (
      sharing_scope = 'platform'
      OR (
        sharing_scope = 'tenant'
        AND get_organization_tenant(owner_organization_id) IN (
          SELECT get_organization_tenant(organization_id)
          FROM user_organizations
          WHERE user_id = auth.uid() AND is_active = true
        )
      )
      OR (
        sharing_scope = 'organization'
        AND owner_organization_id IN (
          SELECT organization_id
          FROM user_organizations
          WHERE user_id = auth.uid() AND is_active = true
        )
      )
    )
  );

CREATE POLICY "users_create_agents"
  ON agents FOR INSERT
  TO authenticated
  WITH CHECK (
    owner_organization_id IN (
      SELECT organization_id
      FROM user_organizations
      WHERE user_id = auth.uid() AND is_active = true
    )
    AND created_by = auth.uid()
  );

CREATE POLICY "users_update_agents"
  ON agents FOR UPDATE
  TO authenticated
  USING (
    deleted_at IS NULL
    AND (
      created_by = auth.uid()
      OR owner_organization_id IN (
        SELECT organization_id
        FROM user_organizations
        WHERE user_id = auth.uid()
          AND is_active = true
          AND role = 'admin'
      )
    )
  );

CREATE POLICY "users_view_own_conversations"
  ON conversations FOR SELECT
  TO authenticated
  USING (
    user_id = auth.uid()
    AND deleted_at IS NULL
  );
