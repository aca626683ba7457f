'use strict'
const by = id => document.getElementById(id)
const rows = [...by('boxes').querySelectorAll('tr[data-state]')]
const fields = ['state', 'kind', 'section']

function filter() {
  const words = by('search').value.toLowerCase().split(/\s+/).filter(Boolean)
  let shown = 0
  for (const row of rows) {
    const text = row.textContent.toLowerCase()
    row.hidden = !(words.every(word => text.includes(word)) && fields.every(f => !by(f).value || row.dataset[f] === by(f).value))
    shown += row.hidden ? 0 : 1
  }
  for (const group of by('boxes').tBodies) group.hidden = !group.querySelector('tr[data-state]:not([hidden])')
  by('shown').value = shown + ' shown'
}
by('filters').addEventListener('input', filter)
by('filters').addEventListener('submit', event => event.preventDefault())

// A link to a row that the filters hide shows it.
addEventListener('hashchange', () => {
  const target = by(decodeURIComponent(location.hash.slice(1)))
  if (target && target.hidden) {
    by('filters').reset()
    filter()
    target.scrollIntoView()
  }
})

for (const why of document.querySelectorAll('.why')) {
  const say = event => { const cell = event.target.closest('.may'); if (cell) why.textContent = cell.dataset.why }
  for (const type of ['click', 'focusin', 'mouseover']) why.parentElement.addEventListener(type, say)
}

// On paper nothing can be opened.
addEventListener('beforeprint', () => { for (const d of document.querySelectorAll('details')) d.open = true })
